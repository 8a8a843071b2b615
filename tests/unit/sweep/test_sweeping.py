"""How a sweep begins; what becomes of its trials is in the integration tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BEGIN = """
import os, sys
from simfl.sweep import sweeping

def stop(plan):
    print("ray" in sys.modules, os.environ["RAY_AUTH_MODE"])
    raise SystemExit

sweeping.require_packages = stop
sweeping.run_sweep("quickstart", out=sys.argv[1], over=["seed=0..1"])
"""


def test_tune_finds_ray_imported_with_our_settings(tmp_path: Path) -> None:
    """Tune imports it too: without them, its ports would be on all interfaces."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN, str(tmp_path)]
    result = subprocess.run(command, env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert result.stdout == "True token\n", result.stderr
