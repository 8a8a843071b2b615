"""The files of a cluster that a run starts are private, and removed with it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simfl.cluster.session_folder import make_session_folder
from simfl.errors import ClusterError

RAYS = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
"""What Ray adds to the path."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder for temporary files."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_the_folder_is_private_and_short_enough_for_sockets(place: Path) -> None:
    folder = make_session_folder()
    assert folder is not None
    assert folder.path.parent == place
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert len(os.fsencode(folder.path)) + RAYS <= 107
    folder.remove()
    assert not list(place.iterdir())


def test_a_long_path_of_temporary_files_gets_a_short_link(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = place / ("scratch-of-a-job-" * 6)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = make_session_folder()
    assert folder is not None
    assert len(os.fsencode(folder.path)) + RAYS <= 107
    inside = (folder.path / "ray").resolve()
    assert inside.parent.parent == long.resolve()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (folder.path, inside.parent)} == {0o700}
    folder.remove()
    assert not folder.path.exists()
    assert not list(long.iterdir())


def test_folders_of_killed_runs_are_removed_and_those_in_use_are_kept(
    place: Path,
) -> None:
    dead = place / "simfl-dead"
    (dead / "ray" / "session").mkdir(parents=True)
    (dead / "lock").touch()
    strange = place / "simfl-strange"
    strange.mkdir()
    living = make_session_folder()
    assert living is not None
    another = make_session_folder()
    assert another is not None
    assert set(place.iterdir()) == {strange, living.path, another.path}
    for folder in (living, another):
        folder.remove()


def test_a_folder_that_the_user_set_for_ray_is_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/elsewhere")
    assert make_session_folder() is None


def test_a_missing_folder_is_reported_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "none"))
    with pytest.raises(
        ClusterError, match=r"cannot create a folder for the files of a Ray cluster: .*TMPDIR"
    ):
        make_session_folder()
