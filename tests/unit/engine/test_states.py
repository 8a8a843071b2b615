"""Where clients' states are: in memory, in a shard, or on the way there."""

from __future__ import annotations

from simfl.checkpoint import ShardInfo, StateFile
from simfl.checkpoint.checksums import Checksum
from simfl.engine import PlannedShard, StateTable


def info(plan: PlannedShard[object]) -> ShardInfo:
    return ShardInfo(plan.name, Checksum("0" * 64, 1), tuple(plan.holders))


def written(table: StateTable[object], label: str) -> None:
    for plan in table.plan_shards(label):
        table.written(plan, info(plan))


def test_a_state_is_found_where_it_was_last_put() -> None:
    table = StateTable[object]("place")
    assert table.get(3) is None
    table.commit({3: "first"}, num_bytes=10)
    assert table.get(3) == "first"
    written(table, "a")
    assert table.get(3) == StateFile("place", "a-0000", 3)
    table.commit({3: "second"}, num_bytes=10)
    assert table.get(3) == "second"


def test_a_state_that_came_while_the_former_was_written_is_not_let_go_of() -> None:
    table = StateTable[object]("place")
    table.commit({3: "old", 4: "old"}, num_bytes=20)
    (plan,) = table.plan_shards("a")
    table.commit({3: "new"}, num_bytes=10)
    table.written(plan, info(plan))
    assert table.get(3) == "new"
    assert table.get(4) == StateFile("place", "a-0000", 4)


def test_only_what_is_in_memory_is_written_and_shards_are_bounded() -> None:
    """32 MiB a client: two to a shard of 64 MiB."""
    table = StateTable[object]("place")
    table.commit(dict.fromkeys(range(5), "x"), num_bytes=5 * (32 << 20))
    assert [sorted(p.holders) for p in table.plan_shards("a")] == [[0, 1], [2, 3], [4]]
    assert table.held_bytes == 5 * (32 << 20)
    written(table, "a")
    assert (table.held_bytes, table.plan_shards("b")) == (0, [])


def test_a_shard_that_nobodys_state_is_in_any_more_is_forgotten() -> None:
    table = StateTable[object]("place")
    for label in ("a", "b"):
        table.commit({1: label}, num_bytes=1)
        written(table, label)
    assert [shard.name for shard in table.shards] == ["b-0000"]


def test_a_checkpoint_names_the_shards_that_are_being_written() -> None:
    table = StateTable[object]("place")
    table.commit({1: "x"}, num_bytes=1)
    written(table, "a")
    table.commit({2: "y"}, num_bytes=1)
    assert table.shards_with(table.plan_shards("b")) == {1: "a-0000", 2: "b-0000"}


def test_going_back_forgets_the_states_of_rounds_that_will_be_replayed() -> None:
    table = StateTable[object]("place")
    table.commit({1: "late", 2: "late"}, num_bytes=2)
    table.restore({1: "old-0000"}, [ShardInfo("old-0000", Checksum("0" * 64, 1), (1,))])
    assert table.get(1) == StateFile("place", "old-0000", 1)
    assert table.get(2) is None
    assert table.held_bytes == 0
