from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from simfl.errors import ScenarioError
from simfl.optimizer import OptiModule
from simfl.scenario import load_scenario

MINIMAL = """\
rounds: 3
data:
  source: digits
  partition: {kind: iid, clients: 10}
model: {kind: mlp}
client:
  optimizer: {lrate: 0.1}
"""


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a scenario puts its folder on the import path: undo that."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget which modules of the Optimizer a test registers, before it and after it."""
    monkeypatch.setattr(OptiModule.registry, "_classes", dict(OptiModule.registry._classes))
    names = ("own_plugin", "broken_plugin", "own_work")
    for name in names:  # imported again, even if another test has imported it
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def write() -> Callable[..., str]:
    """Write a file in the current folder and return its name."""

    def write(text: str | bytes, name: str = "s.yaml") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


@pytest.fixture
def faults(write: Callable[..., str]) -> Callable[..., list[str]]:
    """Load a scenario that has faults, and return these."""

    def faults(given: str | bytes | Mapping[str, Any], *overrides: str) -> list[str]:
        source = given if isinstance(given, Mapping) else write(given)
        with pytest.raises(ScenarioError) as raised:
            load_scenario(source, overrides=overrides)
        return raised.value.faults

    return faults


@pytest.fixture
def minimal() -> dict[str, Any]:
    """The smallest scenario, as plain data."""
    return {
        "rounds": 3,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 10}},
        "model": {"kind": "mlp"},
        "client": {"optimizer": {"lrate": 0.1}},
    }


@pytest.fixture
def minimal_yaml() -> str:
    """The same, as the text of a file of 7 lines."""
    return MINIMAL


@pytest.fixture(autouse=True)
def _without_other_tests_components(only_our_components: None) -> None:
    """See what simfl ships, and what the test itself defines."""
