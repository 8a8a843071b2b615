"""Results that travel in parts are put together again from whatever holds the parts."""

from __future__ import annotations

import numpy as np

from simfl.messages import ChunkReport, ChunkResult, ClientReports, Partial
from simfl.states import Dropped, Kept, Nothing


def result() -> ChunkResult[Partial, str]:
    """Return that of clients 7, 3 and 5: one keeps a state, one keeps none, one was dropped."""
    ints, floats = np.array([7, 3, 5]), np.zeros(3)
    rest = dict.fromkeys(["train_loss", "first_loss", "last_loss", "delta_norm", "seconds"], floats)
    reports = ClientReports(ints, ints, ints, **rest, dropped={5: "not finite"})
    report = ChunkReport(1, 0, reports, 0.1, keeping=(7,))
    states = {7: Kept("state of 7"), 3: Nothing(), 5: Dropped("not finite")}
    return ChunkResult(report, Partial(0, 3, {}), states)


def test_a_result_is_joined_from_what_holds_its_parts() -> None:
    whole = result()
    report, *others = whole.split()
    assert len(others) + 1 == ChunkResult.num_parts(3)
    assert ChunkResult.join(report, others) == whole
    held = ChunkResult.join(report, ["partial's", "7's", "3's", "5's"])
    assert held.partial == "partial's"
    assert held.states == {7: Kept("7's"), 3: Nothing(), 5: Dropped("not finite")}
    assert list(held.states) == [7, 3, 5]


def test_states_that_were_not_requested_are_not_in_the_result() -> None:
    whole = result()
    parts = ChunkResult(whole.report, whole.partial, {}).split()
    assert len(parts) == ChunkResult.num_parts(0)
    assert ChunkResult.join(parts[0], parts[1:]).states == {}
