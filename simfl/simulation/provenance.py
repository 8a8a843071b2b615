"""Where a run's numbers come from: its command, code, packages, processor and data."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from simfl.data import FederatedDataset
from simfl.scenario import Scenario

_TIMEOUT_S = 10.0
_MAX_DIFF = 1 << 20
_MAX_UNTRACKED = 100
_DIFF = "code{}.diff"
_MAX_HASHED = 1 << 31
"""Bytes of examples above which no digest is taken."""
_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


@dataclass(frozen=True)
class Provenance:
    """Where a run's numbers come from."""

    about: Mapping[str, Any]
    """JSON values: ``command``, ``python``, ``torch``, ``processor``, ``data``, ``git``,
    ``packages``."""
    diffs: Mapping[str, bytes] = field(default_factory=dict)
    """The changes since each repository's commit, by file name."""

    def with_data(self, dataset: FederatedDataset) -> Provenance:
        """Return it with the digest of the data, which takes 1 s per GB."""
        digest = dataset.digest() if dataset.num_bytes <= _MAX_HASHED else None
        return replace(self, about={**self.about, "data": digest})


def provenance_of(scenario: Scenario) -> Provenance:
    """Return where the numbers of a run that starts here and now come from, but for the data."""
    # git runs what a repository's configuration names; with trust "none" nothing of the author's.
    folders = scenario.search if scenario.trust == "all" else ()
    tops = enumerate(_tops(folders), start=1)
    found = [_repository(top, _DIFF.format("" if n == 1 else f"-{n}")) for n, top in tops]
    repositories = [one for one in found if one is not None]
    about = {
        "command": _command(),
        "data": None,
        "git": [about for about, _ in repositories],
        **environment(),
    }
    return Provenance(about, {about["diff"]: diff for about, diff in repositories if diff})


def environment() -> dict[str, Any]:
    """Return what else affects floating-point rounding: packages, and the processor.

    ``isa`` has the instructions by which torch chooses its kernels.
    """
    isa = torch.backends.cpu.get_cpu_capability()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "processor": {"model": _model_name(), "isa": isa, "cores": os.cpu_count()},
        "packages": dict(_packages()),
    }


@lru_cache(maxsize=1)
def _model_name() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _command() -> list[str] | None:
    """Return the command line; None in a process that Ray has started, as for trials."""
    is_worker = Path(sys.argv[0] if sys.argv else "").name == "default_worker.py"
    return None if is_worker else list(sys.argv)


@lru_cache(maxsize=1)
def _packages() -> tuple[tuple[str, str], ...]:
    # `version` would parse the same text again.
    about = [distribution.metadata for distribution in metadata.distributions()]
    found = {str(one["Name"]): str(one["Version"]) for one in about}
    return tuple(sorted(found.items(), key=lambda item: item[0].lower()))


def _tops(folders: Sequence[str]) -> list[Path]:
    """Return the distinct repositories that these folders are in."""
    return [top for top in dict.fromkeys(map(_top, folders)) if top is not None]


@lru_cache
def _top(folder: str) -> Path | None:
    found = (_git(Path(folder), "rev-parse", "--show-toplevel") or b"").decode(errors="replace")
    return Path(found.strip()) if found.strip() else None


# Once in a process, as modules are imported once: what runs is what the files were then.
@lru_cache
def _repository(top: Path, name: str) -> tuple[dict[str, Any], bytes] | None:
    """Return the commit of a repository and what is not in it, and the diff of tracked files."""
    commit = _git(top, "rev-parse", "HEAD")
    if not commit:
        return None
    diff = _git(top, "diff", "--no-ext-diff", "--no-textconv", "HEAD")
    untracked = _git(top, "ls-files", "--others", "--exclude-standard") or b""
    names = untracked.decode(errors="replace").splitlines()
    is_kept = diff is not None and 0 < len(diff) <= _MAX_DIFF
    about = {
        "folder": str(top),
        "commit": commit.decode().strip(),
        "is_changed": None if diff is None else bool(diff),
        "diff": name if is_kept else None,
        "untracked": names[:_MAX_UNTRACKED],
    }
    return about, (diff or b"") if is_kept else b""


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return what git prints; None if it fails, or takes too long."""
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            env=os.environ | _ENVIRONMENT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
