"""The scenarios that come with simfl."""

from __future__ import annotations

from pathlib import Path

import pytest

from simfl.errors import ScenarioError
from simfl.scenario import find_scenario, load_scenario, shipped_scenarios


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_a_shipped_scenario_is_found_by_its_name(name):
    assert find_scenario(name) == shipped_scenarios()["quickstart"]


def test_a_file_of_that_name_comes_first(write, minimal_yaml):
    name = write(minimal_yaml, "configs/quickstart.yaml")
    assert find_scenario(name) == Path(name)


def test_what_there_is_neither_of_is_told_with_the_nearest_name():
    with pytest.raises(ScenarioError) as raised:
        find_scenario("configs/quikstart.yaml")
    assert raised.value.faults == [
        "configs/quikstart.yaml: no such file, and simfl ships no scenario called "
        "'quikstart'. Did you mean 'quickstart'? "
        f"Shipped with simfl: {', '.join(sorted(shipped_scenarios()))}."
    ]


def test_another_kind_of_file_is_no_shipped_scenario():
    with pytest.raises(ScenarioError):
        find_scenario("quickstart.json")


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_each_shipped_scenario_loads(name):
    assert load_scenario(name).name == name
