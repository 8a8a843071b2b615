"""The profile of a run: flame graphs of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simfl.engine import Engine, Sampling

PROFILE_FOLDER = "profile"


@contextmanager
def profiled(engine: Engine, folder: Path) -> Iterator[None]:
    """Note what this process does meanwhile, and write it and what others have done.

    Of a run that fails too, as far as its processes are there.

    Args:
        engine: knows the other processes.
        folder: the run's; files go into ``profile`` in it.
    """
    own = Sampling()
    try:
        yield
    finally:
        page = own.render()
        profile = folder / PROFILE_FOLDER
        profile.mkdir(exist_ok=True)
        (profile / "driver.html").write_text(page, encoding="utf-8")
        engine.write_profiles(profile)
