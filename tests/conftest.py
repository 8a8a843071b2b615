from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

# One thread for torch, also in processes that tests start: on a busy machine, several threads wait
# for each other at each operation, and the models of tests are too small to gain from them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from warm import WarmPython

from simfl.scenario.components import component_kinds

# The same examples every time, and no time limit: machines may be busy.
settings.register_profile("simfl", deadline=None, derandomize=True)
settings.load_profile("simfl")
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_search() -> None:
    """Keep what has been imported so far out of the garbage collector's passes.

    Each run makes such a pass, which takes seconds with all the libraries that tests import.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """Flush no file to the disk in this process: several times in each run, of which there are
    many, and no test switches the machine off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses what is no open file, too
        yield


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmPython]:
    """Python processes that have imported simfl and torch before they start."""
    python = WarmPython()
    yield python
    python.close()


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have runs in one process train in so many threads, however short their steps are."""

    def set_number(number: int) -> None:
        monkeypatch.setattr("simfl.simulation.backends.cpus_of_this_machine", lambda: number)
        monkeypatch.setattr("simfl.engine.threads.LEAST_STEP_S", 0.0)
        monkeypatch.setattr("simfl.engine.threads.LOCKED_S", 1e-9)

    return set_number


@pytest.fixture
def only_our_components(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the components that the modules of other tests have defined, broken ones among them."""
    own = ("simfl.", request.module.__name__)
    for root in component_kinds().values():
        classes = {
            name: cls for name, cls in root.registry.items() if cls.__module__.startswith(own)
        }
        monkeypatch.setattr(root.registry, "_classes", classes)
