"""``--set key.path=value``."""

from __future__ import annotations

import pytest

from simfl.errors import ScenarioError
from simfl.optimizer import OptiModule
from simfl.scenario import load_scenario


def test_an_override_replaces_a_value(write, minimal_yaml):
    scenario = load_scenario(write(minimal_yaml), overrides=["client.optimizer.lrate=1e-3"])
    assert scenario.client.optimizer.lrate == 0.001


def test_an_override_makes_the_sections_it_needs(write, minimal_yaml):
    scenario = load_scenario(write(minimal_yaml), overrides=["server.optimizer.lrate=0.5"])
    assert scenario.server.optimizer.lrate == 0.5


def test_an_override_fills_a_section_left_empty(write, minimal_yaml):
    name = write(minimal_yaml + "evaluation:\n")
    assert load_scenario(name, overrides=["evaluation.every=5"]).evaluation.every == 5


@pytest.mark.parametrize("path", ["modules.1", "modules[1]"])
def test_an_override_replaces_a_list_item(write, minimal_yaml, path):
    text = minimal_yaml.replace("lrate: 0.1", "lrate: 0.1, modules: [momentum, adam]")
    scenario = load_scenario(
        write(text), overrides=[f"client.optimizer.{path}=[ewma, {{beta: 0.5}}]"]
    )
    expected = [OptiModule.from_name("momentum"), OptiModule.from_name("ewma", {"beta": 0.5})]
    assert list(scenario.client.optimizer.modules) == expected


def test_an_override_reaches_into_a_pair(write, minimal_yaml):
    text = minimal_yaml.replace("lrate: 0.1", "lrate: 0.1, modules: [[momentum, {beta: 0.5}]]")
    overrides = ["client.optimizer.modules.0.1.beta=0.25"]
    (module,) = load_scenario(write(text), overrides=overrides).client.optimizer.modules
    assert module == OptiModule.from_name("momentum", {"beta": 0.25})


@pytest.mark.parametrize(
    "written", ["ditto", "[ditto, {own_epochs: 2.0}]", "[ditto, {strength: 3}]", "{kind: ditto}"]
)
def test_an_override_sets_a_field_of_a_component_however_it_is_written(
    write, minimal_yaml, written
):
    overrides = ["algorithm.strength=0.25", "client.optimizer.modules.0.beta=0.5"]
    text = minimal_yaml.replace("lrate: 0.1", "lrate: 0.1, modules: [momentum]")
    name = write(f"{text}algorithm: {written}\n")
    scenario = load_scenario(name, overrides=overrides)
    assert scenario.algorithm.strength == 0.25
    assert scenario.algorithm.own_epochs == (2.0 if "own_epochs" in written else None)
    assert scenario.client.optimizer.modules[0].beta == 0.5
    with pytest.raises(ScenarioError, match=r"--set: algorithm\.strength: is -1"):
        load_scenario(name, overrides=["algorithm.strength=-1"])


def test_the_last_override_counts(write, minimal_yaml):
    assert load_scenario(write(minimal_yaml), overrides=["rounds=5", "rounds=7"]).rounds == 7


def test_an_empty_value_is_null(write, minimal_yaml):
    scenario = load_scenario(write(minimal_yaml), overrides=["data.partition="])
    assert scenario.data.partition is None


def test_an_override_leaves_the_given_data_alone(minimal):
    load_scenario(minimal, overrides=["client.optimizer.lrate=0.5"])
    assert minimal["client"]["optimizer"]["lrate"] == 0.1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rounds", "--set: 'rounds' is not of the form key.path=value"),
        ("=3", "--set: '=3' is not of the form key.path=value"),
        ("client..epochs=3", "--set: 'client..epochs=3' is not of the form key.path=value"),
        ("rounds=ten", "--set: rounds: is 'ten'; should be an integer"),
        (
            "client.epoch=3",
            "--set: client.epoch: is 3, but there is no such key. Did you mean 'epochs'?",
        ),
        ("rounds.x=3", "--set: rounds: is 3, which has no 'x'; set rounds as a whole"),
        (
            "rounds.x.y=3",
            "--set: rounds: is 3, which has no 'x'; set rounds as a whole",
        ),
        (
            "client.optimizer.modules.0=adam",
            "--set: client.optimizer.modules: has no item 0; it has 0, counted from 0",
        ),
        (
            "model={kind: mlp, hidden: [x]}",
            "--set: model.hidden[0]: is 'x'; should be an integer",
        ),
        (
            "data.partition.clients={",
            "--set data.partition.clients: is not valid YAML: while parsing a flow node, "
            "expected the node content, but found '<stream end>'",
        ),
    ],
)
def test_a_fault_of_an_override_has_it_for_its_place(faults, minimal_yaml, override, expected):
    assert faults(minimal_yaml, override) == [expected]


def test_an_override_can_mend_a_fault_of_the_file(write, minimal_yaml):
    name = write(minimal_yaml.replace("rounds: 3", "rounds: 0"))
    assert load_scenario(name, overrides=["rounds=2"]).rounds == 2


def test_overrides_are_a_list_of_texts(write, minimal_yaml):
    with pytest.raises(ScenarioError, match=r"is the text 'rounds=2'; give a list: \['rounds=2'\]"):
        load_scenario(write(minimal_yaml), overrides="rounds=2")
