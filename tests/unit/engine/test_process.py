"""The peak of this process's memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process that holds 96 MiB for a moment, and nothing of simfl but the module.
MEASURED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("process", sys.argv[1])
process = importlib.util.module_from_spec(spec)
spec.loader.exec_module(process)
before = process.peak_memory()
held = bytearray(b"x") * (96 << 20)
del held
print(before, process.peak_memory())
"""

SLACK = 1 << 20
"""Linux adds up a process's pages from counts of its threads, which may be behind by a few."""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no way to ask there")
def test_it_rises_by_what_is_held_and_does_not_fall_again() -> None:
    import simfl.engine.process as module

    command = [sys.executable, "-c", MEASURED, module.__file__]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    before, after = map(int, out.split())
    assert after >= (96 << 20) - SLACK
    assert after - before <= (96 << 20) + SLACK
