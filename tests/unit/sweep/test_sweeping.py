"""How a sweep begins; what becomes of its trials is in the integration tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simfl.checkpoint import Lease
from simfl.errors import InputError
from simfl.states import open_storage
from simfl.sweep import resume_sweep

BEGIN = """
import os, sys
from simfl.sweep import sweeping

def stop(plan):
    print("ray" in sys.modules, os.environ["RAY_AUTH_MODE"])
    raise SystemExit

sweeping.require_packages = stop
sweeping.run_sweep("quickstart", out=sys.argv[1], over=["seed=0..1"])
"""


def test_a_sweep_that_goes_on_is_not_gone_on_with_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text('{"event": "began"}\n')
    with (
        Lease(open_storage(tmp_path), notify=print),
        pytest.raises(InputError, match=f"{tmp_path} is being written by process"),
    ):
        resume_sweep(tmp_path)


def test_tune_finds_ray_imported_with_our_settings(tmp_path: Path) -> None:
    """Tune imports it too: without them, its ports would be on all interfaces."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN, str(tmp_path)]
    result = subprocess.run(command, env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert result.stdout == "True token\n", result.stderr
