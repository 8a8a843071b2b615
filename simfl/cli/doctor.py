"""``simfl doctor``: what runs need of this machine, and what it has."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from simfl.cli.options import AsJson
from simfl.cli.output import FAILED, print_json, print_table
from simfl.errors import SimflError, one_line

if TYPE_CHECKING:
    from simfl.cli.json_output import Finding

_GIB: Final = 2**30
_MIN_SHARED: Final = _GIB
_MAX_DISK: Final = 0.95
"""The share of a disk from which on Ray writes nothing more to it."""
_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SHARED: Final = Path("/dev/shm")


def diagnose(as_json: AsJson = False) -> None:
    """Check what runs need of this machine: packages, GPUs, Ray, memory, disk.

    It starts Ray and stops it again. The exit code is 1 if something does not work.
    """
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _packages,
        _gpus,
        _ray,
        _shared_memory,
        _disks,
        _huge_pages,
        _extras,
    )
    findings = [finding for look in looks for finding in look()]
    if as_json:
        print_json({"findings": findings})
    else:
        rows = [
            (f["name"], "ok" if f["ok"] else "not ok", f["found"], f["remedy"] or "")
            for f in findings
        ]
        print_table(("what", "state", "found", "to do"), rows, title="this machine")
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(FAILED)


def _finding(name: str, found: str, *, ok: bool = True, remedy: str | None = None) -> Finding:
    return {"name": name, "ok": ok, "found": found, "remedy": remedy}


def _packages() -> Iterator[Finding]:
    from simfl.version import __version__

    yield _finding("simfl", __version__)
    yield _finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield _finding("torch", metadata.version("torch"))
    yield _finding("ray", metadata.version("ray"))


def _gpus() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield _finding("gpu", ", ".join(names))
    elif Path("/dev/nvidia0").exists():
        remedy = "install the torch of your CUDA version: https://pytorch.org/get-started"
        yield _finding("gpu", "there is one, but torch does not find it", ok=False, remedy=remedy)
    else:
        yield _finding("gpu", "none; clients train on CPUs")


def _ray() -> Iterator[Finding]:
    from simfl.cluster.session import connect

    began = time.monotonic()
    try:
        connection = connect(address="local", num_cpus=1, dashboard=False)
        connection.close()
    except (SimflError, OSError, RuntimeError) as error:
        remedy = "use --backend inline, which needs no Ray"
        yield _finding("ray starts", one_line(error), ok=False, remedy=remedy)
    else:
        yield _finding("ray starts", f"in {time.monotonic() - began:.1f} s")


def _shared_memory() -> Iterator[Finding]:
    """Ray's object store is in /dev/shm; where that is small, it is on the disk."""
    if not _SHARED.is_dir():
        return
    free = shutil.disk_usage(_SHARED).free
    is_enough = free >= _MIN_SHARED
    remedy = "in a container: --shm-size=8g, or set cluster.object_store_memory"
    found = f"{free / _GIB:.1f} GiB free"
    yield _finding(str(_SHARED), found, ok=is_enough, remedy=None if is_enough else remedy)


def _disks() -> Iterator[Finding]:
    for what, folder in (("disk of runs", Path.cwd()), ("disk of Ray", tempfile.gettempdir())):
        usage = shutil.disk_usage(folder)
        is_enough = usage.free > (1 - _MAX_DISK) * usage.total
        remedy = None if is_enough else "free some, or use another folder (output.dir, RAY_TMPDIR)"
        found = f"{usage.free / _GIB:.0f} of {usage.total / _GIB:.0f} GiB free"
        yield _finding(what, found, ok=is_enough, remedy=remedy)


def _huge_pages() -> Iterator[Finding]:
    """With ``never``, large models train more slowly."""
    try:
        chosen = re.search(r"\[(\w+)\]", _HUGE_PAGES.read_text())
    except OSError:
        return
    mode = chosen[1] if chosen else "unknown"
    remedy = f"faster for large models: echo madvise > {_HUGE_PAGES}" if mode == "never" else None
    yield _finding("huge pages", mode, remedy=remedy)


def _extras() -> Iterator[Finding]:
    package = metadata.metadata("simfl")
    extras = [name for name in package.get_all("Provides-Extra") or () if name not in _OURS]
    missing = [extra for extra in extras if not _has(extra)]
    there = ", ".join(extra for extra in extras if extra not in missing) or "none"
    remedy = f"if you need them: pip install 'simfl[{','.join(missing)}]'" if missing else None
    yield _finding("extras", there, remedy=remedy)


_OURS: Final = ("lint", "test")


def _has(extra: str) -> bool:
    """Return whether all packages of an extra are installed."""
    for requirement in metadata.requires("simfl") or ():
        name = re.match(r"[\w.-]+", requirement)
        if name and re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", requirement):
            try:
                metadata.version(name[0])
            except metadata.PackageNotFoundError:
                return False
    return True
