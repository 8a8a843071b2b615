"""Whatever is done to a good scenario, it loads or is refused in our own words."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simfl.errors import ScenarioError
from simfl.scenario import load_scenario

GOOD: dict[str, Any] = {
    "name": "good",
    "seed": 1,
    "rounds": 3,
    "data": {
        "source": "synthetic",
        "alpha": 0.5,
        "partition": {"kind": "iid", "clients": 10},
        "test_fraction": 0.1,
    },
    "model": {"kind": "mlp", "hidden": [8], "loss": ["huber", {"delta": 2.0}]},
    "client": {
        "per_round": 5,
        "epochs": 2,
        "optimizer": {
            "lrate": ["warm-up", {"after": ["cosine", {"base": 0.1, "length": 10}], "length": 3}],
            "modules": ["momentum", {"kind": "adam", "beta_1": 0.5}],
        },
    },
    "server": {"aggregator": ["trimmed-mean", {"trim": 0.1}]},
    "evaluation": {"metrics": ["accuracy"]},
    "cluster": {"actors": "auto"},
}

SETTINGS = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["iid", "adam", "auto", "kind", "npz", "cosine", "mean", b"x"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["kind", "clients"]), inner)
    ),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = []
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def check_lines(faults: list[str], *, start: str = "") -> None:
    assert faults
    for line in faults:
        assert line.startswith(start)
        assert "\n" not in line
        assert "pydantic" not in line
        assert "Input should" not in line


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A good scenario with up to three values replaced, removed or added."""
    scenario = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        found = places(scenario)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            container[key] = draw(values)
        elif action == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.text(max_size=3) | st.integers() | st.none())] = draw(values)
        else:
            container.insert(key, draw(values))
    return scenario


def test_the_scenario_that_is_changed_is_good():
    assert load_scenario(GOOD).rounds == 3


@SETTINGS
@given(mutated())
def test_a_changed_scenario_loads_or_has_faults_of_one_line(scenario):
    try:
        loaded = load_scenario(scenario)
    except ScenarioError as error:
        check_lines(error.faults)
    else:
        assert load_scenario(loaded.to_dict()) == loaded


@SETTINGS
@given(data=st.data())
def test_a_changed_file_loads_or_has_faults_that_name_it(data, write):
    text = load_scenario(GOOD).to_yaml()
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 20))
    put = data.draw(
        st.text(max_size=4) | st.sampled_from(["\t", ": ", "\n", "- ", "{", "&a ", "*a", "!!x "])
    )
    encoded = (text[:at] + put + text[at + cut :]).encode("utf-8", "surrogatepass")
    try:
        load_scenario(write(encoded))
    except ScenarioError as error:
        check_lines(error.faults, start="s.yaml")


@SETTINGS
@given(st.text(max_size=12), values.filter(lambda value: not isinstance(value, bytes)))
def test_any_override_is_taken_or_refused(key, value):
    try:
        load_scenario(GOOD, overrides=[f"{key}={value}"])
    except ScenarioError as error:
        check_lines(error.faults)


@pytest.mark.parametrize("name", ["", os.sep, "\0", "x" * 5000])
def test_a_strange_file_name_is_refused(name):
    with pytest.raises(ScenarioError):
        load_scenario(name)
