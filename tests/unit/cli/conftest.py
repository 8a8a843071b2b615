from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from simfl.cli.main import app

SCENARIO = """\
rounds: 2
data: {source: synthetic, clients: 4, max_examples: 60, test_fraction: 0.2}
model: {kind: logistic}
client:
  optimizer: {lrate: 0.01}
"""


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def simfl() -> Callable[..., Result]:
    """Call the command line in this process."""

    def simfl(*arguments: str) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return simfl


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    """A good scenario's file name."""
    Path("s.yaml").write_text(SCENARIO)
    return "s.yaml"


@pytest.fixture(autouse=True)
def _without_other_tests_components(only_our_components: None) -> None:
    """See what simfl ships, and what the test itself defines."""
