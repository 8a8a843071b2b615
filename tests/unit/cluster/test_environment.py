"""Settings are for processes that are started with them, and for nobody else."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from simfl.cluster.environment import HUGE_PAGES, NO_EVENTS, started_with

FAULTS = """
import resource
import torch
torch.ones(25_000_000)  # 100 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def page_faults_of_a_tensor_of_100_megabytes() -> int:
    return int(subprocess.check_output([sys.executable, "-c", FAULTS], text=True))


def has_huge_pages() -> bool:
    library, version = platform.libc_ver()
    new_enough = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return new_enough and SWITCH.exists() and "[madvise]" in SWITCH.read_text()


@pytest.mark.skipif(not has_huge_pages(), reason="this machine has no huge pages to ask for")
def test_large_tensors_cost_few_page_faults() -> None:
    """100 MB are 24,414 pages of 4 KiB, or 47 of 2 MiB with what lies before and behind them."""
    with started_with(HUGE_PAGES):
        assert page_faults_of_a_tensor_of_100_megabytes() < 2_000
    assert page_faults_of_a_tensor_of_100_megabytes() > 20_000


def test_this_process_s_environment_is_as_it_was() -> None:
    before = dict(os.environ)
    with started_with(HUGE_PAGES | NO_EVENTS):
        assert dict(os.environ) == before | HUGE_PAGES | NO_EVENTS
    assert dict(os.environ) == before


def test_what_the_user_tunes_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    with started_with(HUGE_PAGES):
        assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=3"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=3"
