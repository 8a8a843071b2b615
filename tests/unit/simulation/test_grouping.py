"""Groups: who trains whom follows from the scenario, and the reduction stays whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import simfl
from simfl.aggregation import TreeSum
from simfl.engine import guided_chunks
from simfl.errors import InputError
from simfl.messages import RoundPlan
from simfl.record import RoundRecord
from simfl.simulation import Simulation, build
from simfl.simulation.grouping import order_by_group

CLIENTS = 20


def scenario(*groups: dict[str, Any], **changes: Any) -> dict[str, Any]:
    partition = {"kind": "iid", "clients": CLIENTS}
    return {
        "rounds": 2,
        "data": {"source": "digits", "partition": partition},
        "model": {"kind": "mlp", "hidden": [8]},
        "client": {"per_round": 10, "batch_size": 16, "optimizer": {"lrate": 0.1}},
        "cluster": {"groups": list(groups)},
    } | changes


def built(*groups: dict[str, Any], **changes: Any) -> Simulation:
    return build(simfl.load_scenario(scenario(*groups, **changes)))


def test_ids_are_assigned_first_then_fractions_then_the_rest() -> None:
    group_of = built(
        {"name": "rest"},
        {"name": "half", "clients": {"fraction": 0.5}},
        {"name": "some", "clients": {"range": [2, 4]}},
        {"name": "one", "clients": {"ids": [7]}},
    ).group_of
    assert Counter(group_of.tolist()) == {0: 6, 1: 10, 2: 3, 3: 1}
    assert np.flatnonzero(group_of == 2).tolist() == [2, 3, 4]
    assert np.flatnonzero(group_of == 3).tolist() == [7]


def test_a_fraction_is_drawn_by_the_seed() -> None:
    def drawn(seed: int) -> list[int]:
        groups = [{"name": "half", "clients": {"fraction": 0.5}}, {"name": "rest"}]
        return np.flatnonzero(built(*groups, seed=seed).group_of == 0).tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_column_of_the_data_defines_a_group(tmp_path: Path) -> None:
    device = np.repeat(["phone", "laptop", "phone", "watch"], 5)
    np.savez(
        tmp_path / "data.npz",
        inputs=np.zeros((20, 3), np.float32),
        targets=np.arange(20) % 2,
        client=np.repeat(np.arange(4), 5),
        device=device,
        broken=np.arange(20),
    )

    def groups(column: str) -> list[int]:
        phones = {"column": column, "values": ["phone", "watch"]}
        data = {"source": "npz", "path": str(tmp_path / "data.npz")}
        client = {"optimizer": {"lrate": 0.1}}
        named = [{"name": "phones", "clients": phones}, {"name": "rest"}]
        return built(*named, data=data, client=client).group_of.tolist()

    assert groups("device") == [0, 1, 0, 0]
    with pytest.raises(InputError, match=r"no column 'devise'.*Did you mean 'device'"):
        groups("devise")
    with pytest.raises(InputError, match=r"'broken' is 0 and 1 for examples of client 0"):
        groups("broken")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"name": "a", "clients": {"range": [0, 20]}}],
            r"groups\[0\]\.clients: has client 20, but clients are numbered from 0 to 19",
        ),
        (
            [
                {"name": "a", "clients": {"ids": [1, 5]}},
                {"name": "b", "clients": {"range": [5, 9]}},
            ],
            r"groups\[1\]\.clients: has client 5, which is also in group 'a'",
        ),
        (
            [{"name": "a", "clients": {"ids": [3]}}],
            r"cluster\.groups: leaves 19 clients without a group, such as 0; add a group with "
            "clients: rest",
        ),
        (
            [{"name": "a", "clients": {"range": [0, 19]}}, {"name": "b"}],
            r"groups\[1\]\.clients: has no client of the population",
        ),
        (
            [
                {"name": "a", "clients": {"fraction": 0.6}},
                {"name": "b", "clients": {"fraction": 0.6}},
            ],
            r"groups\[1\]\.clients: asks for 12 clients, but 8 are left",
        ),
    ],
)
def test_clients_in_two_groups_or_in_none_are_an_error(
    groups: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        built(*groups)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60),
    st.tuples(*[st.sampled_from([1, 2, 4, 16])] * 4),
    st.integers(1, 3),
)
def test_the_chunks_of_all_groups_make_a_whole_tree(
    clients: list[tuple[int, int]], stacks: tuple[int, ...], num_workers: int
) -> None:
    """Each chunk adds leaves of the size of its group's stacks, as a client host does."""
    group_of, num_steps = map(np.array, zip(*clients, strict=True))
    order = np.argsort(-num_steps, kind="stable")
    plan = RoundPlan(1, tuple(order.tolist()), tuple(num_steps[order].tolist()))
    plan = order_by_group(plan, group_of, stacks)
    tree = TreeSum[int](plan.num_positions, lambda left, right: left + right)
    seen: list[int] = []
    for part in plan.split():
        for chunk in guided_chunks(plan, part, num_workers):
            assert {group_of[client] for client in chunk.clients} == {chunk.group}
            steps = num_steps[list(chunk.clients)]
            assert (np.diff(steps) <= 0).all(), "longest local work first"
            level = min(part.stack.bit_length() - 1, (plan.num_positions - 1).bit_length())
            for begin in range(0, len(chunk.clients), part.stack):
                stack = chunk.clients[begin : begin + part.stack]
                tree.add_node((level, (chunk.start + begin) >> level), len(stack))
                seen += stack
    assert sorted(seen) == list(range(len(clients)))
    assert tree.result() == len(clients)


def test_groups_change_the_order_of_sums_and_not_what_is_trained(tmp_path: Path) -> None:
    """One group of all is no group at all; several differ by the rounding of their sums alone."""

    def run(*groups: dict[str, Any]) -> simfl.Result:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        return simfl.run(scenario(*groups), out=out, backend="inline")

    def numbers(result: simfl.Result) -> Any:
        return [RoundRecord.parse(record).reproducible for record in result.history]

    without, alone = run(), run({"name": "all"})
    assert numbers(without) == numbers(alone)
    several = run({"name": "a", "clients": {"fraction": 0.3}}, {"name": "b", "stack": 2})
    for name, weights in without.weights.items():
        np.testing.assert_allclose(several.weights[name], weights, rtol=1e-4, atol=1e-6)


def test_the_automatic_stack_size_is_resolved_for_each_group() -> None:
    simulation = built({"name": "a", "clients": {"fraction": 0.5}, "stack": 2}, {"name": "b"})
    resolved = simulation.scenario.to_dict()
    assert [group["stack"] for group in resolved["cluster"]["groups"]] == [2, 1]
    assert build(simfl.load_scenario(resolved)).scenario.fingerprint() == (
        simulation.scenario.fingerprint()
    )


def test_another_assignment_is_another_run() -> None:
    def fingerprint(fraction: float) -> str:
        half = {"name": "a", "clients": {"fraction": fraction}}
        return built(half, {"name": "b"}).scenario.fingerprint()

    assert fingerprint(0.5) != fingerprint(0.25)
