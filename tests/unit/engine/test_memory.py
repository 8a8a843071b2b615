"""The peak of this process's memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from simfl.engine import peak_memory

SLACK = 1 << 20
"""Linux adds up a process's pages from counts of its threads, which may be behind by a few."""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no way to ask there")
def test_it_rises_by_what_is_touched_and_does_not_fall_again() -> None:
    before = peak_memory()
    assert before is not None
    memory = np.ones(before + (64 << 20), dtype=np.uint8)
    num_bytes = memory.nbytes
    del memory
    after = peak_memory()
    assert after is not None
    assert after >= num_bytes - SLACK
