"""Contributions of an algorithm that sends other things from one client than from another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from simfl.aggregation import Mean, merge_contributions
from simfl.errors import AggregationError
from simfl.messages import Contribution
from simfl.optimizer import Optimizer
from simfl.vector import Keyed, Vector


def contribution(total: Vector | None, **sums: Any) -> Contribution:
    return Contribution(total, 1.0, {}, {}, sums)


def keyed(name: str) -> Keyed:
    return Keyed([1], Vector({name: torch.ones(1)}))


@pytest.mark.parametrize(
    ("left", "right", "says"),
    [
        (
            contribution(Vector({"w": torch.ones(1)})),
            contribution(None),
            "some clients send a delta",
        ),
        (
            contribution(None),
            contribution(Vector({"w": torch.ones(1)})),
            "some clients send a delta",
        ),
        (
            contribution(None, a=keyed("x")),
            contribution(None, a=keyed("y")),
            "as 'a' .* KeyError: 'x'",
        ),
        (
            contribution(None, a=torch.ones(2)),
            contribution(None, a=torch.ones(3)),
            "as 'a' does not",
        ),
    ],
)
def test_what_does_not_add_up_is_one_line(
    left: Contribution, right: Contribution, says: str
) -> None:
    with pytest.raises(AggregationError, match=says) as caught:
        merge_contributions(left, right, aggregator=Mean(), optimizer=Optimizer(0.1))
    assert "client() of the algorithm must send" in str(caught.value)
    assert "\n" not in str(caught.value)
