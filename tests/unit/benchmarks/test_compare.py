"""What the comparison says of losses."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare import Course, tell_losses
from turns import Contestant, RoundTime
from workloads import WORKLOADS

SIMFL = (2.4, 2.3, 2.2, 2.1)


@pytest.mark.parametrize(
    ("losses", "agrees"),
    [
        ((2.4, 2.3 * (1 + 1e-6), 2.2, 9.9), True),  # drifts apart later
        ((2.4, 2.3 * (1 + 1e-3), 2.2, 2.1), False),  # the server has made something else
        ((2.4 * (1 + 1e-3), 2.3, 2.2, 2.1), False),
    ],
)
def test_losses_are_held_to_the_first_two_rounds(losses: tuple[float, ...], agrees: bool):
    courses = [_course("simfl", SIMFL), _course("bare fused", losses)]
    assert tell_losses(WORKLOADS["W4"], courses) is agrees


def test_only_the_first_round_of_pfls_scaffold_is_compared():
    courses = [_course("simfl", SIMFL), _course("pfl", (2.4, 3.0, 3.0, 3.0))]
    assert tell_losses(WORKLOADS["W4"], courses)
    assert not tell_losses(WORKLOADS["W1"], courses)


def _course(name: str, losses: tuple[float, ...]) -> Course:
    turn = [RoundTime(1.0, loss) for loss in losses]
    return Course(Contestant(name, [], log=Path()), turns=[turn])
