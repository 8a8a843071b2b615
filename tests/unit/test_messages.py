"""Results that travel in parts are put together again from whatever holds the parts."""

from __future__ import annotations

import numpy as np
import pytest

from simfl.messages import ChunkReport, ChunkResult, ClientReports
from simfl.states import Dropped, Kept, Nothing, Place


def report(*keeping: int, num_bytes: int = 0) -> ChunkReport:
    """Return that of clients 7, 3, 5 and 4, of which 5 was dropped."""
    ints, floats = np.array([7, 3, 5, 4]), np.zeros(4)
    rest = dict.fromkeys(["train_loss", "first_loss", "last_loss", "delta_norm", "seconds"], floats)
    reports = ClientReports(ints, ints, ints, **rest, dropped={5: "not finite"})
    return ChunkReport(1, 0, reports, 0.1, state_bytes=num_bytes, keeping=keeping)


def test_a_result_is_joined_from_what_holds_its_parts() -> None:
    held = ChunkResult.join(report(7), ["partial's", "7's", None, None, None])
    assert ChunkResult.num_parts(4) == 1 + 5
    assert held.partial == "partial's"
    place, *others = held.states.values()
    assert others == [Nothing(), Dropped("not finite"), Nothing()]
    assert isinstance(place, Kept)
    assert isinstance(place.state, Place)
    assert (place.state.of.holder, place.state.row) == ("7's", 0)
    assert list(held.states) == [7, 3, 5, 4]


@pytest.mark.parametrize(
    ("num_objects", "expected"),
    [
        (1, {7: ("a", 0), 3: ("a", 1), 4: ("a", 2)}),
        (2, {7: ("a", 0), 3: ("a", 1), 4: ("b", 0)}),
        (4, {7: ("a", 0), 3: ("b", 0), 4: ("c", 0)}),
    ],
)
def test_states_that_share_an_object_follow_one_another_in_it(
    num_objects: int, expected: dict[int, tuple[str, int]]
) -> None:
    held = ChunkResult.join(report(7, 3, 4, num_bytes=30), ["partial", *"abcd"[:num_objects]])
    kept = {c: one.state for c, one in held.states.items() if isinstance(one, Kept)}
    assert {c: (place.of.holder, place.row) for c, place in kept.items()} == expected
    assert {place.of: place.of.num_bytes for place in kept.values()} == {
        place.of: 10 * place.of.num_states for place in kept.values()
    }


def test_states_that_were_not_requested_are_not_in_the_result() -> None:
    assert ChunkResult.num_parts(0) == 2
    assert ChunkResult.join(report(7), ["partial's"]).states == {}
