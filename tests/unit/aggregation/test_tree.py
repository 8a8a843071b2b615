"""The reduction tree: the same bits from any chunks in any order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfl.aggregation import TreeSum


def plain_tree(values: list[np.float32]) -> np.float32:
    """The definition: pair neighbours level by level; an odd one out moves up as it is."""
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]


def add(left: np.float32, right: np.float32) -> np.float32:
    return left + right


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[np.float32], list[list[int]]]:
    """A cohort's values, and its positions cut into chunks which arrive in any order."""
    floats = st.floats(-(2.0**60), 2.0**60, width=32)
    values = [np.float32(x) for x in draw(st.lists(floats, min_size=1, max_size=40))]
    cuts = draw(st.sets(st.integers(1, len(values)), max_size=10))
    edges = sorted({0, len(values), *cuts})
    chunks = [list(range(a, b)) for a, b in pairwise(edges)]
    return values, draw(st.permutations(chunks))


@given(cohorts())
def test_any_chunks_in_any_order_give_the_bits_of_the_plain_tree(
    cohort: tuple[list[np.float32], list[list[int]]],
) -> None:
    values, chunks = cohort
    server = TreeSum(len(values), add)
    for chunk in chunks:
        actor = TreeSum(len(values), add)
        for position in chunk:
            actor.add(position, values[position])
        for node, value in actor.nodes.items():
            server.add_node(node, value)
    assert server.is_complete
    assert np.float32(server.result()).tobytes() == plain_tree(values).tobytes()


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.randoms())
def test_a_position_without_a_value_adds_nothing(present: list[bool], random: object) -> None:
    values = [str(i) if here else None for i, here in enumerate(present)]
    tree = TreeSum[str](len(values), lambda left, right: left + "," + right)
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for position in order:
        tree.add(position, values[position])
    expected = ",".join(value for value in values if value is not None)
    assert (tree.result() or "") == expected


def test_a_chunk_of_eight_aligned_positions_has_one_root() -> None:
    tree = TreeSum(500, lambda left, right: left + right)
    for position in range(16, 24):
        tree.add(position, 1)
    assert tree.nodes == {(3, 2): 8}


def test_only_log2_of_the_positions_are_held_while_they_arrive_in_order() -> None:
    tree = TreeSum(1024, lambda left, right: left + right)
    most = 0
    for position in range(1024):
        tree.add(position, 1)
        most = max(most, len(tree.nodes))
    assert most <= 10
    assert tree.result() == 1024


def test_an_incomplete_tree_has_no_result() -> None:
    tree = TreeSum(2, lambda left, right: left + right)
    tree.add(1, 5)
    assert not tree.is_complete
    with pytest.raises(AssertionError, match="missing"):
        tree.result()
