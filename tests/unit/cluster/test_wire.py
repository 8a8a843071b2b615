"""Parcels: opened in private memory, however read-only they arrive."""

from __future__ import annotations

import gc
import pickle
import sys
import types
from collections.abc import Sequence

import pytest
import torch

from simfl.cluster.failures import UnbuiltActorError
from simfl.cluster.server_actor import ServerActor
from simfl.cluster.wire import Parcel, open_parcel, pack
from simfl.messages import Broadcast
from simfl.vector import Vector


def arrived(message: object, *, share: Sequence[Vector] = ()) -> Parcel:
    """Return the parcel as Ray hands it to an actor: its arrays cannot be written to."""
    parcel = pack(message, label=7, share=share)
    for array in (*parcel.arrays, *(part for _, memory in parcel.shared for part in memory)):
        array.flags.writeable = False
    return parcel


def test_a_message_comes_out_as_it_went_in() -> None:
    weights = Vector({"w": torch.randn(3, 2), "n": torch.tensor(4), "e": torch.zeros(0, 2)})
    message = Broadcast(7, weights, {"scaffold": {"state": weights * 2, "count": 3.0}})
    parcel = arrived(message)
    assert parcel.label == 7
    assert open_parcel(parcel) == message


def test_what_was_opened_can_be_written_to_without_harm() -> None:
    parcel = arrived(Vector({"w": torch.ones(4)}))
    open_parcel(parcel)["w"].mul_(5)
    assert open_parcel(parcel)["w"].tolist() == [1, 1, 1, 1]


def test_shared_vectors_are_read_in_place_and_the_rest_is_a_copy() -> None:
    shared, copied = Vector({"w": torch.ones(2, 3)}), Vector({"w": torch.ones(4)})
    parcel = arrived((shared, copied), share=[shared])
    opened_shared, opened_copied = open_parcel(parcel)
    assert opened_shared == shared
    assert opened_shared.read_only
    assert opened_shared["w"].data_ptr() == parcel.shared[0][1][0].ctypes.data
    assert not opened_copied.read_only
    opened_copied["w"].mul_(5)
    assert open_parcel(parcel) == (shared, copied)


def test_a_receiver_may_copy_shared_vectors() -> None:
    parcel = arrived(shared := Vector({"w": torch.ones(4)}), share=[shared])
    opened = open_parcel(parcel, copy=True)
    opened.mul_(5.0)
    assert open_parcel(parcel) == shared


def test_shared_memory_lives_as_long_as_it_is_read() -> None:
    parcel = arrived(shared := Vector({"w": torch.arange(1000.0)}), share=[shared])
    moved = pickle.loads(pickle.dumps(parcel))  # in its own memory, shared with nothing
    opened = open_parcel(moved)
    del moved, parcel
    gc.collect()
    assert opened["w"].tolist() == list(range(1000))


def test_the_arrays_are_not_in_the_header() -> None:
    parcel = pack(Vector({"w": torch.zeros(100_000)}), label=0)
    assert len(parcel.header) < 1000
    assert sum(array.nbytes for array in parcel.arrays) == 400_000


def test_a_server_that_is_not_built_yet_does_not_open_what_it_receives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The class is of a plug-in, which a restarted server has not imported yet."""
    plugin = types.ModuleType("a_plugin")
    exec("class Total:\n    pass", plugin.__dict__)
    monkeypatch.setitem(sys.modules, "a_plugin", plugin)
    parcel = pack(plugin.Total(), label=0)
    monkeypatch.delitem(sys.modules, "a_plugin")
    arrived = pickle.loads(pickle.dumps(parcel))
    server = ServerActor("server")
    with pytest.raises(UnbuiltActorError, match="server was restarted"):
        server.receive(arrived)
    with pytest.raises(ModuleNotFoundError):
        open_parcel(arrived)
