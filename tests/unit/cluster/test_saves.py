"""A save whose states are lost with a node takes the run back; a dead server does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayError

from simfl.cluster.saves import Saves
from simfl.cluster.wire import SnapshotRefs
from simfl.errors import StatesLostError
from simfl.messages import SaveOrder
from simfl.states import Kept, StateTable


def begun(error: RayError) -> Saves:
    """Begin to save the state of one client, which ends with an error."""

    def get(ref: Any) -> None:
        raise error

    method = SimpleNamespace(remote=lambda *arguments: "a reference")
    actor = SimpleNamespace(write_shard=method, write_checkpoint=method)
    server: Any = SimpleNamespace(actor=actor, get=get)
    states = StateTable[Any]("place")
    states.commit({3: Kept("the state's reference")}, num_bytes=8)
    saves = Saves("place", states, server)
    saves.begin(SaveOrder(2, "hash", {}, 1), SnapshotRefs("broadcast", "optimizer"))
    return saves


def test_states_that_are_lost_before_they_are_written_take_the_run_back() -> None:
    saves = begun(ObjectLostError("0" * 56, None, ""))
    with pytest.raises(StatesLostError):
        saves.finish()
    saves.finish()  # nothing is waited for any more


def test_a_save_that_dies_with_the_server_does_not_count() -> None:
    saves = begun(ActorDiedError())
    saves.finish()
    assert saves._states.get(3) == "the state's reference"
