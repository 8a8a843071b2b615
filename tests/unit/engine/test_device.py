"""The device follows from the scenario."""

from __future__ import annotations

import pytest
import torch

from simfl.engine import DeviceUse, device_for
from simfl.errors import ClusterError


def test_it_is_the_cpu_unless_gpus_are_requested_even_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for("client-0", uses_gpu=False) == "cpu"
    assert device_for("client-0", uses_gpu=True) == "cuda:0"


def test_a_missing_gpu_is_an_error_and_not_a_slow_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ClusterError, match=r"client-3: cluster\.num_gpus asks for a GPU.*num_gpus: 0"
    ):
        device_for("client-3", uses_gpu=True)


def test_as_many_processes_fit_as_nine_tenths_of_the_memory_hold() -> None:
    assert DeviceUse(used=10, total=80).processes_that_fit() == 7
    assert DeviceUse(used=100, total=80).processes_that_fit() == 1, "there is always one"
