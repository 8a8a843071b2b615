"""A run's Ray session: its address, and the environment of the processes it starts."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simfl.cluster import access
from simfl.cluster.environment import NO_EVENTS, started_with
from simfl.cluster.forking import HUGE_PAGES
from simfl.cluster.session import _attach, chosen_address, connect
from simfl.errors import ClusterError

FAULTS = """
import resource
import torch
torch.ones(25_000_000)  # 100 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_of_ray_client_is_refused_with_a_remedy() -> None:
    with pytest.raises(ClusterError, match=r"'ray://head:10001'.*HOST:6379.*ray job submit"):
        connect(address="ray://head:10001", num_cpus=1, dashboard=False)


def test_a_scenarios_address_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The user's token is sent there."""
    assert chosen_address(None, "10.0.0.5:6379\x1b") == "10.0.0.5:6379\x1b"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "cluster.address names the Ray cluster at 10.0.0.5:6379'\\x1b'; your Ray token"
    )
    assert chosen_address("127.0.0.1:6379", "10.0.0.5:6379") == "127.0.0.1:6379"
    assert chosen_address(None, "local") == "local"
    assert chosen_address(None, None) is None
    assert capsys.readouterr().err == ""


def test_auto_is_refused_at_once_if_the_cluster_does_not_answer(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would wait for minutes, since a stopped control service still listens."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("simfl.cluster.access._ANSWER_S", 0.2)
    monkeypatch.setattr(access, "gcs_addresses", lambda: {listening})
    with pytest.raises(ClusterError, match=rf"{listening}' does not answer as a Ray cluster does"):
        _attach(None, "auto", job_config=None)


def page_faults_of_a_tensor_of_100_megabytes() -> int:
    return int(subprocess.check_output([sys.executable, "-c", FAULTS], text=True))


def has_huge_pages() -> bool:
    library, version = platform.libc_ver()
    new_enough = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return new_enough and SWITCH.exists() and "[madvise]" in SWITCH.read_text()


@pytest.mark.skipif(not has_huge_pages(), reason="this machine has no huge pages to ask for")
def test_large_tensors_cost_few_page_faults() -> None:
    """100 MB are 24,414 pages of 4 KiB, or 47 of 2 MiB and small ones at both ends."""
    with started_with(HUGE_PAGES):
        assert page_faults_of_a_tensor_of_100_megabytes() < 2_000
    assert page_faults_of_a_tensor_of_100_megabytes() > 20_000


def test_this_process_environment_is_restored() -> None:
    before = dict(os.environ)
    with started_with(HUGE_PAGES | NO_EVENTS):
        assert dict(os.environ) == before | HUGE_PAGES | NO_EVENTS
    assert dict(os.environ) == before


def test_the_users_tunables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    with started_with(HUGE_PAGES):
        assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=3"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=3"
