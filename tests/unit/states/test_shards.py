import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simfl.errors import CheckpointError
from simfl.states import (
    KeptState,
    StateFile,
    Storage,
    decode_file,
    encode_file,
    load_state,
    open_storage,
    read_state,
    write_shard,
)
from simfl.vector import Vector
from tests.unit.states.state_cases import alterations, bits, kept, kept_states

# The storage of the fixture is one for all examples: each writes the shard again.
on_one_storage = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@on_one_storage
@given(st.dictionaries(st.integers(0, 10**6), kept_states, min_size=1, max_size=4))
def test_states_come_back_bit_for_bit(storage: Storage, states: dict[int, KeptState]) -> None:
    info = write_shard(storage, "s", states)
    assert info.clients == tuple(states)
    for client, state in states.items():
        assert bits(read_state(storage, "s", client)) == bits(state)


def test_the_same_states_make_the_same_file(storage: Storage) -> None:
    first = write_shard(storage, "a", {7: kept(1.0), 8: kept(2.0)})
    second = write_shard(storage, "b", {7: kept(1.0), 8: kept(2.0)})
    assert first.checksum == second.checksum
    assert storage.read("states/a.safetensors") == storage.read("states/b.safetensors")


def test_the_checksum_is_that_of_the_file(storage: Storage) -> None:
    info = write_shard(storage, "a", {7: kept(1.0)})
    data = storage.read("states/a.safetensors")
    assert info.checksum.sha256 == hashlib.sha256(data).hexdigest()
    assert info.checksum.num_bytes == len(data)


def test_a_state_file_pickles_small_and_loads_its_state(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    write_shard(storage, "a", {7: kept(1.0), 8: kept(2.0)})
    pickled = pickle.dumps(StateFile(storage.location, "a", 8))
    assert len(pickled) < 500
    assert bits(load_state(pickle.loads(pickled))) == bits(kept(2.0))


def test_one_clients_state_is_read_without_the_others(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 clients of 80 kB: the first 64 KiB, which hold the header, and one state."""
    state = KeptState(0, ({"v": Vector({"w": torch.ones(20_000)})},), ())
    info = write_shard(storage, "a", dict.fromkeys(range(20), state))
    assert info.checksum.num_bytes > 20 * 80_000
    read = []
    read_file = type(storage).read

    def count(self: Storage, name: str, start: int, stop: int) -> bytes:
        data = read_file(self, name, start, stop)
        read.append(len(data))
        return data

    monkeypatch.setattr(type(storage), "read", count)
    assert bits(read_state(storage, "a", 13)) == bits(state)
    assert sum(read) < 65_536 + 81_000


def test_a_shard_of_many_clients_has_a_header_longer_than_the_first_read(
    storage: Storage,
) -> None:
    # Some 150 bytes of header a client: 1000 clients have more than 64 KiB of it.
    write_shard(storage, "a", {client: KeptState(client, (), ()) for client in range(1000)})
    assert read_state(storage, "a", 999).num_steps == 999
    assert read_state(storage, "a", 0).num_steps == 0


def test_the_safetensors_package_opens_a_shard(storage: Storage) -> None:
    write_shard(storage, "a", {7: kept(1.0), 8: kept(2.0)})
    found = safetensors.torch.load(storage.read("states/a.safetensors"))
    assert set(found) == {"7", "8"}
    assert bits(decode_file(found["8"].numpy().tobytes())) == bits((8, kept(2.0)))


def test_a_state_does_not_share_memory_with_the_shard(storage: Storage) -> None:
    write_shard(storage, "a", {7: kept(1.0)})
    read_state(storage, "a", 7).modules[0]["own"]["w"].zero_()
    assert bits(read_state(storage, "a", 7)) == bits(kept(1.0))


# -- what is wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".hidden", "ü", "a b", "x\n"])
def test_a_shard_with_a_name_that_is_a_path_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a valid name of a shard"):
        write_shard(storage, name, {7: kept(1.0)})
    with pytest.raises(CheckpointError, match="is not a valid name of a shard"):
        read_state(storage, name, 7)


def test_a_client_that_is_not_in_the_shard_is_named(storage: Storage) -> None:
    write_shard(storage, "a", {7: kept(1.0)})
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors cannot be used: .* not hold client 8"
    ):
        read_state(storage, "a", 8)


def test_a_shard_that_is_not_there_is_named(storage: Storage) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*states/a\.safetensors"):
        read_state(storage, "a", 7)


def test_another_clients_state_is_not_taken_for_ones_own(storage: Storage) -> None:
    """As if a flipped bit had made 6 of 7 in the header, twice, with the checksum still right."""
    write_shard(storage, "a", {7: kept(1.0)})
    data = storage.read("states/a.safetensors")
    (length,) = struct.unpack("<Q", data[:8])
    head = data[8 : 8 + length].replace(b'"7"', b'"6"').replace(b'\\"7\\"', b'\\"6\\"')
    storage.write("states/a.safetensors", [data[:8], head, data[8 + length :]])
    with pytest.raises(CheckpointError, match="the state is that of client 7"):
        read_state(storage, "a", 6)


def test_a_shard_that_holds_something_else_is_refused(storage: Storage) -> None:
    blob = encode_file((7, {"not": "a state"}))
    sums = json.dumps({"sha256": {"7": hashlib.sha256(blob).hexdigest()}})
    tensor = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    data = safetensors.torch.save({"7": tensor}, metadata={"simfl": sums})
    storage.write("states/a.safetensors", [data])
    with pytest.raises(CheckpointError, match="does not hold a client's state"):
        read_state(storage, "a", 7)


SHARD = "states/a.safetensors"


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 5))
def test_a_damaged_shard_gives_the_right_state_or_a_checkpoint_error(
    storage: Storage, where: float, how: int
) -> None:
    """A state is checked by its own checksum; the rest of the shard may be damaged."""
    states = {7: kept(1.0), 8: kept(2.0)}
    memory = open_storage("memory://whole-shard")
    write_shard(memory, "a", states)
    data = memory.read(SHARD)
    storage.write(SHARD, [alterations(data, int(where * len(data)))[how]])
    for client, state in states.items():
        try:
            found = read_state(storage, "a", client)
        except CheckpointError:
            continue
        assert bits(found) == bits(state)


@pytest.mark.parametrize(
    ("location", "is_local"),
    [("runs/a", True), ("file:///runs/a", True), ("memory://runs/a", False)],
)
def test_a_state_in_a_folder_is_local_and_one_at_a_url_is_not(
    location: str, is_local: bool
) -> None:
    assert StateFile(location, "round-1-0000", client=3).is_local is is_local
