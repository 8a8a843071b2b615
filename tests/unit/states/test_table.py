"""Where clients' states are: in memory, in a shard, or on the way there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simfl.states import (
    Checksum,
    Dropped,
    Kept,
    Nothing,
    Place,
    PlannedShard,
    ShardInfo,
    StateFile,
    StateTable,
    StoredObject,
)


def info(plan: PlannedShard[object]) -> ShardInfo:
    return ShardInfo(plan.name, Checksum("0" * 64, 1), tuple(plan.holders))


def written(table: StateTable[object], label: str) -> None:
    for plan in table.plan_shards(label):
        table.written(plan, info(plan))


def test_a_state_is_found_where_it_was_last_put() -> None:
    table = StateTable[object]("place")
    assert table.get(3) is None
    table.commit({3: Kept("first")}, num_bytes=10)
    assert table.get(3) == "first"
    written(table, "a")
    assert table.get(3) == StateFile("place", "a-0000", 3)
    table.commit({3: Kept("second")}, num_bytes=10)
    assert table.get(3) == "second"


def test_a_state_that_came_while_the_former_was_written_is_not_let_go_of() -> None:
    table = StateTable[object]("place")
    table.commit({3: Kept("old"), 4: Kept("old")}, num_bytes=20)
    (plan,) = table.plan_shards("a")
    table.commit({3: Kept("new")}, num_bytes=10)
    table.written(plan, info(plan))
    assert table.get(3) == "new"
    assert table.get(4) == StateFile("place", "a-0000", 4)


def test_who_keeps_nothing_has_no_state_any_more_and_who_was_dropped_has_the_former() -> None:
    """In memory and in a shard, and after what was being written then has been."""
    table = StateTable[object]("place")
    table.commit({1: Kept("x"), 2: Kept("x")}, num_bytes=2)
    written(table, "a")
    table.commit({3: Kept("y"), 4: Kept("y")}, num_bytes=2)
    (plan,) = table.plan_shards("b")
    table.commit(
        {
            1: Nothing(),
            2: Dropped("why"),
            3: Nothing(),
            4: Dropped("why"),
            5: Nothing(),
            6: Dropped("why"),
        },
        num_bytes=0,
    )
    table.written(plan, info(plan))
    expected = {2: "a-0000", 4: "b-0000"}
    assert table.shards_with(()) == expected
    for client in range(1, 7):
        shard = expected.get(client)
        assert table.get(client) == (shard and StateFile("place", shard, client))


def test_only_what_is_in_memory_is_written_and_shards_are_bounded() -> None:
    """32 MiB a client: two to a shard of 64 MiB."""
    table = StateTable[object]("place")
    table.commit(dict.fromkeys(range(5), Kept("x")), num_bytes=5 * (32 << 20))
    assert [sorted(p.holders) for p in table.plan_shards("a")] == [[0, 1], [2, 3], [4]]
    assert table.held_bytes == 5 * (32 << 20)
    written(table, "a")
    assert (table.held_bytes, table.plan_shards("b")) == (0, [])


def test_a_shard_without_current_states_is_forgotten() -> None:
    table = StateTable[object]("place")
    for label in ("a", "b"):
        table.commit({1: Kept(label)}, num_bytes=1)
        written(table, label)
    assert [shard.name for shard in table.shards] == ["b-0000"]


def test_a_checkpoint_names_the_shards_that_are_being_written() -> None:
    table = StateTable[object]("place")
    table.commit({1: Kept("x")}, num_bytes=1)
    written(table, "a")
    table.commit({2: Kept("y")}, num_bytes=1)
    assert table.shards_with(table.plan_shards("b")) == {1: "a-0000", 2: "b-0000"}


def test_going_back_forgets_the_states_of_rounds_that_will_be_replayed() -> None:
    table = StateTable[object]("place")
    table.commit({1: Kept("late"), 2: Kept("late")}, num_bytes=2)
    table.restore({1: "old-0000"}, [ShardInfo("old-0000", Checksum("0" * 64, 1), (1,))])
    assert table.get(1) == StateFile("place", "old-0000", 1)
    assert table.get(2) is None
    assert table.held_bytes == 0


def test_what_is_left_of_a_sparse_shard_is_written_with_the_rest() -> None:
    """Of a shard of five, two are current after three were replaced: less than half."""
    table = StateTable[object]("place")
    table.commit(dict.fromkeys(range(5), Kept("old")), num_bytes=5)
    written(table, "a")
    table.commit({0: Kept("new"), 1: Kept("new")}, num_bytes=2)
    (plan,) = table.plan_shards("b")
    assert plan.holders == {0: "new", 1: "new"}
    table.written(plan, info(plan))
    table.commit({2: Kept("new")}, num_bytes=1)
    (plan,) = table.plan_shards("c")
    moved = {client: StateFile("place", "a-0000", client) for client in (3, 4)}
    assert plan.holders == {2: "new", **moved}
    table.written(plan, info(plan))
    assert [shard.name for shard in table.shards] == ["b-0000", "c-0000"]
    assert table.get(4) == StateFile("place", "c-0000", 4)


def test_nothing_is_moved_where_nothing_is_to_be_written() -> None:
    table = StateTable[object]("place")
    table.restore({1: "old-0000"}, [ShardInfo("old-0000", Checksum("0" * 64, 1), (1, 2, 3))])
    assert table.plan_shards("a") == []


def test_a_state_that_came_while_the_former_was_moved_is_the_present_one() -> None:
    table = StateTable[object]("place")
    table.restore({1: "old-0000"}, [ShardInfo("old-0000", Checksum("0" * 64, 1), (1, 2, 3))])
    table.commit({9: Kept("x")}, num_bytes=1)
    (plan,) = table.plan_shards("a")
    table.commit({1: Kept("new")}, num_bytes=1)
    table.written(plan, info(plan))
    assert table.get(1) == "new"


class Disk:
    """What the storage would hold: shard -> client -> (client, round), and what may be deleted."""

    def __init__(self) -> None:
        self.table = StateTable[object]("place")
        self.files: dict[str, dict[int, object]] = {}

    def value(self, holder: object) -> object:
        return self.files[holder.shard][holder.client] if isinstance(holder, StateFile) else holder

    def write(self, plan: PlannedShard[object]) -> None:
        self.files[plan.name] = {c: self.value(holder) for c, holder in plan.holders.items()}

    def delete_unused(self, planned: list[PlannedShard[object]]) -> None:
        in_use = {s.name for s in self.table.shards} | {plan.name for plan in planned}
        self.files = {name: rows for name, rows in self.files.items() if name in in_use}


COHORTS = st.lists(st.sets(st.integers(0, 11), min_size=1, max_size=6), min_size=1, max_size=30)


@given(cohorts=COHORTS, is_late=st.booleans())
def test_the_present_state_is_always_there_and_disk_use_is_bounded(
    cohorts: list[set[int]], is_late: bool
) -> None:
    """Every round is spilled, and the spill is noticed at once or after the next round.

    States of 16 MiB: four to a shard. No more is on disk than two rows for each of the 12 clients,
    and what is being written: all of it once more, at most.
    """
    disk, present = Disk(), dict[int, object]()
    for round, cohort in enumerate(cohorts):
        planned = disk.table.plan_shards(f"spill-{round}")
        for plan in planned:
            disk.write(plan)
        disk.delete_unused(planned)
        if not is_late:
            notice(disk, planned)
            sparse = [shard for shard in disk.table.shards if is_sparse(disk.table, shard)]
            assert not (planned and sparse)
        # The round: its clients read what they have kept, while the spill goes on.
        for client in cohort:
            holder = disk.table.get(client)
            assert (None if holder is None else disk.value(holder)) == present.get(client)
        new: dict[int, object] = {client: (client, round) for client in cohort}
        present |= new
        disk.table.commit(
            {c: Kept(state) for c, state in new.items()}, num_bytes=len(new) * (16 << 20)
        )
        if is_late:
            notice(disk, planned)
        assert sum(map(len, disk.files.values())) <= 3 * 12
    assert {client: disk.value(disk.table.get(client)) for client in present} == present


def notice(disk: Disk, planned: list[PlannedShard[object]]) -> None:
    for plan in planned:
        disk.table.written(plan, info(plan))


def is_sparse(table: StateTable[object], shard: ShardInfo) -> bool:
    holders = [table.get(client) for client in shard.clients]
    present = [h for h in holders if isinstance(h, StateFile) and h.shard == shard.name]
    return 2 * len(present) < len(shard.clients)


@given(cohorts=st.lists(st.sets(st.integers(0, 99), min_size=5, max_size=20), max_size=80))
def test_outdated_states_in_memory_are_bounded_and_moved_ones_are_found(
    cohorts: list[set[int]],
) -> None:
    """Cohorts of 1 MiB a client in an object each; what is moved is there a round later.

    Twice the current states, what is not worth moving, and two rounds on top of it.
    """
    table, present = StateTable[Place]("place"), dict[int, tuple[int, int]]()
    planned: dict[int, Place] = {}
    for round, cohort in enumerate(cohorts):
        rows = [(client, round) for client in sorted(cohort)]
        stored = StoredObject(rows, len(rows), len(rows) << 20)
        new = {client: Place(stored, row) for row, (client, _) in enumerate(rows)}
        present |= {client: (client, round) for client in cohort}
        moved = [place.of.holder[place.row] for place in planned.values()]
        table.commit({c: Kept(place) for c, place in new.items()}, num_bytes=stored.num_bytes)
        table.moved(planned, moved)
        planned = table.plan_move(limit=1 << 40)
        places = {client: table.get(client) for client in present}
        assert {
            client: place.of.holder[place.row]
            for client, place in places.items()
            if isinstance(place, Place)
        } == present
        held = {place.of for place in places.values() if isinstance(place, Place)}
        assert table.held_bytes <= len(present) << 20
        assert sum(one.num_bytes for one in held) <= (2 * len(present) + 64 + 2 * 20) << 20


def test_small_states_share_objects_once_their_size_is_known() -> None:
    table = StateTable[object]("place")
    assert table.num_objects(500) == 500
    table.commit({1: Kept("x"), 2: Kept("x")}, num_bytes=80_000)
    assert table.num_objects(500) == 2  # 20 MB
    table.commit({1: Kept("x")}, num_bytes=2 << 20)
    assert table.num_objects(500) == 500
