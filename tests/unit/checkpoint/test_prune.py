import pytest
from checkpoint_cases import FailingStorage, StorageGoneError, checkpoint, save_two

from simfl.checkpoint import delete_unused_shards, latest_checkpoint, prune, write_checkpoint
from simfl.states import Storage, write_shard
from tests.unit.states.state_cases import kept


def files_of_round(round: int) -> set[str]:
    return {f"round-00000{round}/{name}" for name in ("manifest.json", "server.safetensors")}


def save_five(storage: Storage) -> None:
    """Round r writes the shard s<r> with client r % 2: rounds r and r - 1 are used by round r."""
    shards, states = [], {}
    for round in range(1, 6):
        shards.append(write_shard(storage, f"s{round}", {round % 2: kept(float(round))}))
        states[round % 2] = f"s{round}"
        write_checkpoint(storage, checkpoint(round, dict(states)), shards=shards)


def test_the_newest_are_kept_with_the_shards_they_use(storage: Storage) -> None:
    """Rounds 4 and 5 use s3 and s4, s4 and s5."""
    save_five(storage)
    prune(storage, keep=2)
    shards = {f"states/s{number}.safetensors" for number in (3, 4, 5)}
    assert set(storage.list_files()) == files_of_round(4) | files_of_round(5) | shards
    assert latest_checkpoint(storage).refusals == ()


def test_shards_in_use_are_spared(storage: Storage) -> None:
    save_five(storage)
    write_shard(storage, "of-the-next", {0: kept(6.0)})
    prune(storage, keep=1, in_use={"s1", "of-the-next"})
    assert set(storage.list_files("states")) == {
        f"states/{name}.safetensors" for name in ("s1", "s4", "s5", "of-the-next")
    }


def test_what_was_never_committed_goes_with_the_rounds_around_it(storage: Storage) -> None:
    save_five(storage)
    storage.delete("round-000003/manifest.json")
    storage.write("round-000006/server.safetensors", [b"being written"])
    write_shard(storage, "orphan", {0: kept(0.0)})
    prune(storage, keep=1)
    left = files_of_round(5) | {"round-000006/server.safetensors"}
    assert set(storage.list_files()) - set(storage.list_files("states")) == left
    assert "states/orphan.safetensors" not in storage.list_files()


def test_with_fewer_than_are_to_be_kept_all_stay(storage: Storage) -> None:
    save_two(storage)
    before = storage.list_files()
    prune(storage, keep=2)
    assert storage.list_files() == before


def test_where_there_is_no_checkpoint_nothing_is_deleted(storage: Storage) -> None:
    write_shard(storage, "of-the-first", {0: kept(0.0)})
    prune(storage, keep=1)
    assert set(storage.list_files()) == {"states/of-the-first.safetensors"}


def test_a_damaged_manifest_does_not_count_as_kept(storage: Storage) -> None:
    save_five(storage)
    storage.write("round-000005/manifest.json", [b"{}"])
    prune(storage, keep=1)
    found = latest_checkpoint(storage)
    assert found.checkpoint is not None
    assert found.checkpoint.round == 4
    assert [refusal.name for refusal in found.refusals] == ["round-000005"]


def test_shards_stay_while_a_manifest_that_may_use_them_cannot_be_read(storage: Storage) -> None:
    """It may be of a later format, and whole for the version that wrote it."""
    save_five(storage)
    shards = set(storage.list_files("states"))
    storage.write("round-000005/manifest.json", [b'{"format":2}\n'])
    prune(storage, keep=1)
    assert set(storage.list_files("states")) == shards


def test_a_damaged_manifest_goes_once_it_is_old(storage: Storage) -> None:
    save_five(storage)
    storage.write("round-000003/manifest.json", [b"{}"])
    prune(storage, keep=1)
    assert "round-000003/manifest.json" not in storage.list_files()
    assert set(storage.list_files("states")) == {
        "states/s4.safetensors",
        "states/s5.safetensors",
    }


@pytest.mark.parametrize("after", range(12))
def test_an_interruption_never_leaves_a_checkpoint_without_its_files(
    storage: Storage, after: int
) -> None:
    """4 manifests, 4 folders and 3 shards are deleted: 11 operations, and none is the last."""
    save_five(storage)
    try:
        prune(FailingStorage(storage, after=after), keep=1)
    except StorageGoneError:
        assert after < 11
    else:
        assert after == 11
    found = latest_checkpoint(storage)
    assert found.checkpoint is not None
    assert (found.checkpoint.round, found.refusals) == (5, ())
    prune(storage, keep=1)
    assert set(storage.list_files()) == files_of_round(5) | {
        "states/s4.safetensors",
        "states/s5.safetensors",
    }


@pytest.mark.parametrize("after", range(11))
def test_every_checkpoint_that_is_left_by_an_interruption_is_whole(
    storage: Storage, after: int
) -> None:
    save_five(storage)
    with pytest.raises(StorageGoneError):
        prune(FailingStorage(storage, after=after), keep=1)
    files = storage.list_files()
    left = [round for round in range(1, 6) if f"round-00000{round}/manifest.json" in files]
    while left:
        found = latest_checkpoint(storage)
        assert found.checkpoint is not None
        assert (found.checkpoint.round, found.refusals) == (left.pop(), ())
        storage.delete(f"round-00000{found.checkpoint.round}/manifest.json")


def test_shards_that_nothing_refers_to_are_deleted_without_touching_a_checkpoint(
    storage: Storage,
) -> None:
    save_five(storage)
    for name in ("moved", "present"):
        write_shard(storage, name, {0: kept(0.0)})
    checkpoints = set(storage.list_files()) - set(storage.list_files("states"))
    delete_unused_shards(storage, in_use={"present"})
    names = [*(f"s{number}" for number in range(1, 6)), "present"]
    assert set(storage.list_files("states")) == {f"states/{name}.safetensors" for name in names}
    assert checkpoints <= set(storage.list_files())


def test_without_a_checkpoint_only_shards_in_use_stay(storage: Storage) -> None:
    for name in ("moved", "present"):
        write_shard(storage, name, {0: kept(0.0)})
    delete_unused_shards(storage, in_use={"present"})
    assert set(storage.list_files()) == {"states/present.safetensors"}


def test_no_shard_is_deleted_while_a_manifest_cannot_be_read(storage: Storage) -> None:
    save_five(storage)
    storage.write("round-000002/manifest.json", [b'{"format":2}\n'])
    before = storage.list_files()
    delete_unused_shards(storage, in_use=())
    assert storage.list_files() == before
