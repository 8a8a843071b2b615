"""What stands beneath a key of ``sweep.over``."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic_core import PydanticCustomError

from simfl.scenario.space import Draw, Each, parse_values, read_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.01,0.1", (0.01, 0.1)),
        ("0..4", (0, 1, 2, 3, 4)),
        ("-1..1,7", (-1, 0, 1, 7)),
        ("[32],[64, 32]", ([32], [64, 32])),
        ("momentum,'a,b'", ("momentum", "a,b")),
        ("{kind: adam},null", ({"kind": "adam"}, None)),
        ("1e-3", (0.001,)),
    ],
)
def test_values_of_the_command_line_are_yaml_between_commas(text, values):
    assert read_values(parse_values(text, origin="--over")) == Each(values)


def test_a_draw_alone_is_a_draw():
    found = read_values(parse_values("{uniform: [0, 1]}", origin="--over"))
    assert found == Draw("uniform", (0, 1))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (3, "is 3; should be a list of values"),
        ([], "is an empty list"),
        ("4..0", None),
        (["4..0"], "has the range 4..0, which is empty; write 0..4"),
        (["0..99999"], "100,000 values"),
        ({"unifrom": [0, 1]}, "Did you mean 'uniform'?"),
        ({"uniform": [1, 0]}, "the lowest should come first"),
        ({"uniform": [0]}, "should have two numbers"),
        ({"uniform": [0, float("inf")]}, "should have two numbers"),
        ({"integers": [0, 1.5]}, "should have two whole numbers"),
        ({"integers": [False, True]}, "should have two whole numbers"),
        ({"loguniform": [0, 1]}, "the lowest should be above 0"),
        ({"choice": []}, "choice should have a list of values"),
        ({"uniform": [0, 1], "choice": [1]}, "should be one draw"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(value, fault):
    with pytest.raises(PydanticCustomError) as told:
        read_values(value)
    assert (fault or "which is empty") in str(told.value)


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_draws_have_the_distribution_that_they_are_called_by(kind):
    generator = np.random.default_rng(0)
    values = np.array([Draw(kind, (0.01, 1.0)).draw(generator) for _ in range(2000)])
    assert values.min() >= 0.01
    assert values.max() <= 1.0
    # The median is the middle of the range, on its own scale: 0.505, and sqrt(0.01) = 0.1. That of
    # 2,000 draws is off by less than 4 of its standard errors, 1 / (2 sqrt(2000)) of the range.
    median, error = np.median(values), 4 / (2 * np.sqrt(2000))
    if kind == "uniform":
        assert abs(median - 0.505) < 0.99 * error
    else:
        assert abs(np.log(median / 0.1)) < np.log(100) * error


def test_integers_include_both_ends():
    generator = np.random.default_rng(0)
    assert {Draw("integers", (1, 3)).draw(generator) for _ in range(100)} == {1, 2, 3}
