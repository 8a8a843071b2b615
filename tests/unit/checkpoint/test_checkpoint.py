import dataclasses
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from checkpoint_cases import FailingStorage, StorageGoneError, checkpoint, save_two
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simfl
from simfl.checkpoint import Found, latest_checkpoint, write_checkpoint
from simfl.checkpoint.manifest import read_manifest
from simfl.errors import CheckpointError
from simfl.states import Storage, encode_file, open_storage, read_state, write_shard
from tests.unit.states.state_cases import alterations, bits, kept

MANIFEST = "round-000002/manifest.json"
SERVER = "round-000002/server.safetensors"


def round_of(found: Found) -> int | None:
    return found.checkpoint.round if found.checkpoint else None


# -- what was written is found -------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(storage: Storage) -> None:
    save_two(storage)
    found = latest_checkpoint(storage, scenario_hash="5ca1ab1e")
    expected = checkpoint(2, {0: "first", 1: "second", 2: "second"})
    assert bits(found.checkpoint) == bits(expected)
    assert found.refusals == ()
    states = {
        client: read_state(storage, shard, client) for client, shard in expected.states.items()
    }
    assert bits(states) == bits({0: kept(10.0), 1: kept(21.0), 2: kept(22.0)})


def test_the_versions_that_wrote_it_are_told(storage: Storage) -> None:
    save_two(storage)
    versions = latest_checkpoint(storage).versions
    assert versions == {"simfl": simfl.__version__, "torch": torch.__version__}


def test_the_next_checkpoint_may_use_the_shards_of_the_one_found(storage: Storage) -> None:
    shards = save_two(storage)
    found = latest_checkpoint(storage)
    assert list(found.shards) == shards
    states = {0: "first", 2: "second"}
    write_checkpoint(storage, checkpoint(3, states), shards=found.shards)
    assert latest_checkpoint(storage).checkpoint == checkpoint(3, states)


def test_a_shard_that_no_state_is_in_is_not_referred_to(storage: Storage) -> None:
    shards = save_two(storage)
    write_checkpoint(storage, checkpoint(3, {1: "second"}), shards=shards)
    assert [shard.name for shard in latest_checkpoint(storage).shards] == ["second"]


def test_a_checkpoint_without_client_states_is_two_files(storage: Storage) -> None:
    write_checkpoint(storage, checkpoint(1), shards=[])
    assert set(storage.list_files()) == {
        "round-000001/manifest.json",
        "round-000001/server.safetensors",
    }
    assert latest_checkpoint(storage).checkpoint == checkpoint(1)


def test_where_nothing_was_written_nothing_is_found(storage: Storage) -> None:
    assert latest_checkpoint(storage) == Found(None, (), (), {})


def test_newest_goes_by_number_and_not_by_name(storage: Storage) -> None:
    for round in (999_999, 1_000_000, 20):
        write_checkpoint(storage, checkpoint(round), shards=[])
    assert round_of(latest_checkpoint(storage)) == 1_000_000


def test_the_same_checkpoint_makes_the_same_files(storage: Storage) -> None:
    save_two(storage)
    before = {name: storage.read(name) for name in storage.list_files()}
    save_two(storage)
    assert {name: storage.read(name) for name in storage.list_files()} == before


def test_a_damaged_checkpoint_is_replaced_by_writing_it_again(storage: Storage) -> None:
    save_two(storage)
    storage.write(SERVER, [b"damaged"])
    assert round_of(latest_checkpoint(storage)) == 1
    save_two(storage)
    assert round_of(latest_checkpoint(storage)) == 2


# -- what must not be used -----------------------------------------------------------------


def test_a_checkpoint_of_another_scenario_is_an_error(storage: Storage) -> None:
    save_two(storage)
    with pytest.raises(CheckpointError, match="round-000002 was written by a run of another scen"):
        latest_checkpoint(storage, scenario_hash="other")


def test_a_shard_that_is_not_there_is_not_committed_to(storage: Storage) -> None:
    """It was written by an actor whose local disk is not this one."""
    elsewhere = open_storage("memory://another-node")
    info = write_shard(elsewhere, "s", {7: kept(1.0)})
    with pytest.raises(CheckpointError, match=r"s\.safetensors was written elsewhere"):
        write_checkpoint(storage, checkpoint(1, {7: "s"}), shards=[info])
    assert latest_checkpoint(storage).checkpoint is None


def test_any_change_of_the_manifest_is_found() -> None:
    storage = open_storage("memory://manifests")
    save_two(storage)
    data = storage.read(MANIFEST)
    assert read_manifest(storage, 2).round == 2
    for position in range(len(data)):
        for changed in alterations(data, position):
            storage.write(MANIFEST, [changed])
            with pytest.raises(CheckpointError, match=r"its manifest is damaged|its format is"):
                read_manifest(storage, 2)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from([MANIFEST, SERVER, "states/second.safetensors", "states/first.safetensors"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 5),
)
def test_any_change_of_any_file_is_refused_and_the_one_before_used(
    storage: Storage, name: str, where: float, how: int
) -> None:
    if not storage.list_files():
        save_two(storage)
    data = storage.read(name)
    storage.write(name, [alterations(data, int(where * len(data)))[how]])
    found = latest_checkpoint(storage)
    storage.write(name, [data])
    # Round 1 needs the first shard too: without it there is nothing to go on from.
    is_first = "first" in name
    names = ["round-000002", "round-000001"] if is_first else ["round-000002"]
    assert [refusal.name for refusal in found.refusals] == names
    assert round_of(found) == (None if is_first else 1)


def test_a_refusal_names_the_file(storage: Storage) -> None:
    save_two(storage)
    whole = bytearray(storage.read("states/second.safetensors"))
    whole[-1] ^= 1
    storage.write("states/second.safetensors", [bytes(whole)])
    (refusal,) = latest_checkpoint(storage).refusals
    assert str(refusal) == (
        "checkpoint round-000002 cannot be used: "
        "states/second.safetensors does not match its checksum"
    )


@pytest.mark.parametrize("name", [SERVER, "states/second.safetensors"])
def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    """With holes, 60 GB take no room on the disk."""
    storage = open_storage(tmp_path)
    save_two(storage)
    size = (tmp_path / name).stat().st_size
    os.truncate(tmp_path / name, 60_000_000_000)
    (refusal,) = latest_checkpoint(storage).refusals
    assert refusal.reason == f"{name} has 60,000,000,000 bytes, not {size:,}"


@pytest.mark.parametrize("name", [SERVER, "states/second.safetensors"])
def test_a_file_that_is_gone_is_refused_and_the_one_before_used(
    storage: Storage, name: str
) -> None:
    save_two(storage)
    storage.delete(name)
    found = latest_checkpoint(storage)
    assert str(found.refusals[0]).startswith("checkpoint round-000002 cannot be used: cannot read")
    assert round_of(found) == 1


def rewrite_manifest(storage: Storage, **changes: object) -> None:
    """Write a manifest as someone would who knows the format: its checksum is right."""
    body = json.loads(storage.read(MANIFEST))
    body.pop("sha256")
    body |= changes
    digest = hashlib.sha256(dump(body)).hexdigest()
    storage.write(MANIFEST, [dump({**body, "sha256": digest})])


def dump(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def shard_entry(name: str, data: bytes, clients: list[int]) -> dict[str, object]:
    checksum = {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    return {"name": name, "checksum": checksum, "clients": clients}


def test_the_tests_own_manifest_is_accepted_as_long_as_nothing_is_wrong(storage: Storage) -> None:
    save_two(storage)
    rewrite_manifest(storage)
    assert round_of(latest_checkpoint(storage)) == 2


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/../../b", "second\0"])
def test_a_manifest_that_points_outside_its_folder_is_refused(storage: Storage, name: str) -> None:
    save_two(storage)
    shards = json.loads(storage.read(MANIFEST))["shards"]
    shards.append(shard_entry(name, b"", []))
    rewrite_manifest(storage, shards=shards)
    with pytest.raises(CheckpointError, match="is not a valid name of a shard"):
        read_manifest(storage, 2)
    found = latest_checkpoint(storage)
    assert "is not a valid name of a shard" in found.refusals[0].reason
    assert round_of(found) == 1


@pytest.mark.parametrize("version", [0, 2, 1.0, "1", True, None])
def test_a_manifest_of_an_unknown_format_is_refused(storage: Storage, version: object) -> None:
    save_two(storage)
    rewrite_manifest(storage, format=version)
    found = latest_checkpoint(storage)
    assert found.refusals[0].reason == f"its format is {version!r}, and this version reads 1"
    assert round_of(found) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 1},
        {"round": "2"},
        {"round": True},
        {"scenario_hash": 5},
        {"scenario_hash": "other"},
        {"server": {"name": "x", "sha256": "", "num_bytes": 0}},
        {"server": None},
        {"shards": []},
        {"shards": None},
        {"shards": ["second"]},
        {"shards": [{"name": "second", "clients": [1]}]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_manifest_that_says_something_else_is_refused(
    storage: Storage, changes: dict[str, object]
) -> None:
    save_two(storage)
    rewrite_manifest(storage, **changes)
    found = latest_checkpoint(storage)
    assert [refusal.name for refusal in found.refusals] == ["round-000002"]
    assert round_of(found) == 1


VALUE = {
    "round": 2,
    "scenario_hash": "5ca1ab1e",
    "weights": checkpoint(2).weights,
    "optimizer": checkpoint(2).optimizer,
    "states": {"first": torch.tensor([0]), "second": torch.tensor([1, 2])},
    "positions": {},
}


def without(key: str) -> dict[str, object]:
    return {name: item for name, item in VALUE.items() if name != key}


@pytest.mark.parametrize(
    "value",
    [
        [],
        without("weights"),
        {**VALUE, "more": 1},
        {**VALUE, "round": 1},
        {**VALUE, "round": True},
        {**VALUE, "weights": {}},
        {**VALUE, "optimizer": None},
        {**VALUE, "states": {"first": [0]}},
        {**VALUE, "states": {"first": torch.tensor(0)}},
        {**VALUE, "states": {"first": torch.tensor([0, 0])}},
        {**VALUE, "states": {"first": torch.tensor([2])}},
        {**VALUE, "states": {"third": torch.tensor([0])}},
        {**VALUE, "states": {"../first": torch.tensor([0])}},
        {**VALUE, "states": {7: torch.tensor([0]), "first": torch.tensor([1])}},
    ],
    ids=range(14),
)
def test_a_servers_file_that_holds_something_else_is_refused(
    storage: Storage, value: object
) -> None:
    """The checksums are right: its author knew the format."""
    save_two(storage)
    data = encode_file(value)
    storage.write(SERVER, [data])
    rewrite_manifest(storage, server=shard_entry("", data, [])["checksum"])
    found = latest_checkpoint(storage)
    assert [refusal.name for refusal in found.refusals] == ["round-000002"]
    assert round_of(found) == 1


def test_the_tests_own_servers_file_is_accepted_as_long_as_nothing_is_wrong(
    storage: Storage,
) -> None:
    save_two(storage)
    data = encode_file(VALUE)
    storage.write(SERVER, [data])
    rewrite_manifest(storage, server=shard_entry("", data, [])["checksum"])
    assert round_of(latest_checkpoint(storage)) == 2


def test_pickled_files_are_refused(storage: Storage) -> None:
    save_two(storage)
    data = pickle.dumps(VALUE["round"])
    storage.write(SERVER, [data])
    rewrite_manifest(storage, server=shard_entry("", data, [])["checksum"])
    assert round_of(latest_checkpoint(storage)) == 1
    storage.write(MANIFEST, [pickle.dumps({"format": 1})])
    assert round_of(latest_checkpoint(storage)) == 1


# -- interruptions -------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [None, 0.0, 0.5, 0.99])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_write_interrupted_anywhere_leaves_the_one_before(
    storage: Storage, after: int, torn: float | None
) -> None:
    """Three writes: the shard, the server's file, the manifest. A torn one is half there."""
    save_two(storage)
    before = latest_checkpoint(storage).checkpoint
    failing = FailingStorage(storage, after=after, torn=torn)
    with pytest.raises(StorageGoneError):  # noqa: PT012 - which of the two it is depends on `after`
        third = write_shard(failing, "third", {2: kept(32.0)})
        write_checkpoint(failing, checkpoint(3, {2: "third"}), shards=[third])
    assert bits(latest_checkpoint(storage).checkpoint) == bits(before)


def test_three_writes_are_all_there_are(storage: Storage) -> None:
    save_two(storage)
    enough = FailingStorage(storage, after=3)
    third = write_shard(enough, "third", {2: kept(32.0)})
    write_checkpoint(enough, checkpoint(3, {2: "third"}), shards=[third])
    assert latest_checkpoint(storage).checkpoint == checkpoint(3, {2: "third"})


def test_an_interrupted_write_is_no_refusal(storage: Storage) -> None:
    """No manifest, no checkpoint: there is nothing to tell the user."""
    save_two(storage)
    storage.write("round-000003/server.safetensors", [b"whatever"])
    assert latest_checkpoint(storage).refusals == ()


def test_temporary_files_are_not_taken_for_anything(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    save_two(storage)
    (tmp_path / "round-000003").mkdir()
    manifest = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / "round-000003" / ".manifest.json.0badcafe.unfinished").write_bytes(manifest)
    found = latest_checkpoint(storage)
    assert (round_of(found), found.refusals) == (2, ())


def test_a_folder_with_a_name_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    save_two(storage)
    for name in ("round-3", "round-0000004", "round-000005.old", "round-000006/more"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_bytes(b"{}")
    found = latest_checkpoint(storage)
    assert (round_of(found), found.refusals) == (2, ())


WRITER = textwrap.dedent(
    """
    import sys
    from checkpoint_cases import checkpoint, kept
    from simfl.checkpoint import latest_checkpoint, prune, write_checkpoint
    from simfl.states import open_storage, write_shard

    storage = open_storage(sys.argv[1])
    found = latest_checkpoint(storage)
    assert found.refusals == (), found.refusals
    round = found.checkpoint.round if found.checkpoint else 0
    while True:
        round += 1
        shard = write_shard(storage, f"shard-{round}", {1: kept(float(round))})
        write_checkpoint(storage, checkpoint(round, {1: shard.name}), shards=[shard])
        prune(storage, keep=1)
        print(round, flush=True)
    """
)


def test_a_process_that_is_killed_while_it_writes_leaves_its_last_checkpoint(
    tmp_path: Path,
) -> None:
    """It keeps one checkpoint only, and is killed at some moment of writing or deleting."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[2]}"}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    storage = open_storage(tmp_path)
    found = latest_checkpoint(storage)
    assert found.refusals == ()
    assert found.checkpoint is not None
    # The last one may have been committed and not yet told.
    assert found.checkpoint.round in (int(lines[-1]), int(lines[-1]) + 1)
    state = read_state(storage, found.checkpoint.states[1], 1)
    assert state.num_steps == found.checkpoint.round


# -- the values themselves -----------------------------------------------------------------


def test_a_checkpoint_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        checkpoint(1).round = 2  # type: ignore[misc]
