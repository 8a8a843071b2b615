"""From files and mappings to a scenario, and back."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import yaml

from simfl.data import Partition, Source
from simfl.errors import ScenarioError
from simfl.models import Loss, ModelSpec
from simfl.optimizer import Optimizer, OptiModule, Schedule
from simfl.scenario import load_scenario
from simfl.scenario.components import component_kinds

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from simfl.optimizer import OptiModule

@dataclass(frozen=True)
class Doubling(OptiModule):
    name: ClassVar[str] = "doubling"
    schema: int = 2
    def update(self, gradients, state, context):
        return gradients * self.schema, state
"""


def test_sections_hold_components(write, minimal_yaml):
    scenario = load_scenario(write(minimal_yaml))
    assert scenario.data.source == Source.from_name("digits")
    assert scenario.data.partition == Partition.from_name("iid", {"clients": 10})
    assert scenario.model.spec == ModelSpec.from_name("mlp")
    assert scenario.model.loss == Loss.from_name("cross-entropy")


def test_a_section_builds_its_optimizer(minimal):
    minimal["client"]["optimizer"] = {
        "lrate": ["cosine", {"base": 0.1, "length": 10}],
        "w_decay": 0.01,
        "regularizers": [["fedprox", {"alpha": 0.5}]],
        "modules": ["momentum"],
    }
    optimizer = load_scenario(minimal).client.optimizer.build()
    assert isinstance(optimizer, Optimizer)
    assert optimizer.lrate == Schedule.from_name("cosine", {"base": 0.1, "length": 10})
    assert optimizer.w_decay == 0.01
    assert [regularizer.alpha for regularizer in optimizer.regularizers] == [0.5]
    assert optimizer.modules == [OptiModule.from_name("momentum")]


@pytest.mark.parametrize(
    "written", [["momentum", {"beta": 0.5}], {"kind": "momentum", "beta": 0.5}]
)
def test_a_component_with_fields_is_a_pair_or_a_mapping(minimal, written):
    minimal["client"]["optimizer"]["modules"] = [written]
    (module,) = load_scenario(minimal).client.optimizer.modules
    assert module == OptiModule.from_name("momentum", {"beta": 0.5})


def test_a_component_may_be_given_built(minimal):
    minimal["data"]["partition"] = Partition.from_name("iid", {"clients": 7})
    assert load_scenario(minimal).data.partition.clients == 7


def test_a_whole_number_is_taken_for_a_float(minimal):
    minimal["client"]["optimizer"]["lrate"] = 1
    lrate = load_scenario(minimal).client.optimizer.lrate
    assert (lrate, type(lrate)) == (1.0, float)


def test_a_resolved_scenario_loads_again_to_an_equal_one(write, minimal_yaml):
    scenario = load_scenario(write(minimal_yaml))
    assert load_scenario(write(scenario.to_yaml(), "again.yaml")) == scenario


def test_a_resolved_scenario_has_every_default_written_out(minimal):
    resolved = load_scenario(minimal).to_dict()
    assert resolved["server"] == {
        "optimizer": {"lrate": 1.0, "w_decay": 0.0, "regularizers": [], "modules": []},
        "aggregator": {"kind": "mean"},
        "pre_aggregators": [],
        "weighting": "examples",
    }
    assert resolved["client"]["epochs"] == 1
    assert yaml.safe_load(load_scenario(minimal).to_yaml()) == resolved


@pytest.mark.parametrize("value", ["1e3", "yes", "2024-01-31", "null", "1:2", "#x", "a: b", "é"])
def test_text_that_looks_like_something_else_survives(write, minimal, value):
    minimal["name"] = value
    assert load_scenario(write(load_scenario(minimal).to_yaml())).name == value


@pytest.mark.parametrize("number", [1e-5, 1e300, 0.1, 3.0, 123456789.123])
def test_numbers_survive_bit_for_bit(write, minimal, number):
    minimal["client"]["optimizer"]["lrate"] = number
    again = load_scenario(write(load_scenario(minimal).to_yaml()))
    assert again.client.optimizer.lrate == number


def test_every_component_survives(minimal):
    """Those whose fields all have defaults, one after the other in its place."""
    places = {
        "module": lambda plain, name: plain["client"]["optimizer"].update(modules=[name]),
        "regularizer": lambda plain, name: plain["client"]["optimizer"].update(regularizers=[name]),
        "aggregator": lambda plain, name: plain.update(server={"aggregator": name}),
        "sampler": lambda plain, name: plain["client"].update(sampler=name),
        "metric": lambda plain, name: plain.update(evaluation={"metrics": [name]}),
        "loss": lambda plain, name: plain["model"].update(loss=name),
    }
    tried = 0
    for what, place in places.items():
        for name, cls in component_kinds()[what].registry.items():
            needs_fields = ("python", "feddecorr", "power-of-choice", "multiple-choice")
            if name.startswith("scaffold") or name in needs_fields:
                continue
            plain = {**minimal, "model": {"kind": "mlp"}, "client": {"optimizer": {"lrate": 0.1}}}
            place(plain, name)
            scenario = load_scenario(plain)
            assert load_scenario(scenario.to_dict()) == scenario, cls
            tried += 1
    assert tried >= 20


def test_loading_does_not_change_what_it_is_given(minimal):
    before = repr(minimal)
    load_scenario(minimal)
    assert repr(minimal) == before


class TestFiles:
    """Relative file names: the scenario's folder first."""

    text = (
        "rounds: 1\ndata: {source: npz, path: a.npz}\nmodel: {kind: mlp}\n"
        "client: {optimizer: {lrate: 0.1}}\n"
    )

    def test_a_file_is_found_beside_the_scenario_first(self, write, tmp_path):
        np.savez("a.npz", inputs=[1.0])
        name = write(self.text, "configs/s.yaml")
        np.savez("configs/a.npz", inputs=[1.0])
        assert load_scenario(name).data.source.path == str(tmp_path / "configs" / "a.npz")

    def test_a_file_is_found_in_the_current_folder(self, write, tmp_path):
        np.savez("a.npz", inputs=[1.0])
        name = write(self.text, "configs/s.yaml")
        assert load_scenario(name).data.source.path == str(tmp_path / "a.npz")

    def test_a_missing_file_names_both_places(self, write, tmp_path):
        name = write(self.text, "configs/s.yaml")
        with pytest.raises(ScenarioError) as raised:
            load_scenario(name)
        assert raised.value.faults == [
            "configs/s.yaml:2: data.path: is 'a.npz', and there is no such file; "
            f"looked for {tmp_path}/configs/a.npz and {tmp_path}/a.npz"
        ]

    def test_a_json_file_must_exist_and_a_name_of_it_is_left_alone(self, minimal):
        minimal["data"] = {"source": "text", "path": "x", "tokenizer": "model"}
        assert load_scenario(minimal).data.source.tokenizer == "model"
        minimal["data"]["tokenizer"] = "tok.json"
        with pytest.raises(ScenarioError, match=r"data\.tokenizer: is 'tok\.json', and"):
            load_scenario(minimal)

    def test_what_may_be_a_name_or_a_file_is_left_alone_where_there_is_no_file(self, minimal):
        minimal["data"] = {"source": "huggingface", "path": "ylecun/mnist", "inputs": "image"}
        assert load_scenario(minimal).data.source.path == "ylecun/mnist"

    def test_what_may_be_a_name_or_a_file_is_found_beside_the_scenario(self, write, tmp_path):
        text = self.text.replace(
            "source: npz, path: a.npz", "source: huggingface, path: saved, inputs: x"
        )
        name = write(text, "configs/s.yaml")
        (tmp_path / "configs" / "saved").mkdir()
        assert load_scenario(name).data.source.path == str(tmp_path / "configs" / "saved")

    def test_an_absolute_file_is_taken_as_it_is(self, write, tmp_path):
        np.savez("a.npz", inputs=[1.0])
        name = write(self.text.replace("a.npz", f"{tmp_path}/a.npz"), "configs/s.yaml")
        assert load_scenario(name).data.source.path == str(tmp_path / "a.npz")

    def test_the_resolved_scenario_can_be_loaded_from_elsewhere(self, write, tmp_path):
        np.savez("a.npz", inputs=[1.0])
        scenario = load_scenario(write(self.text))
        again = load_scenario(write(scenario.to_yaml(), "runs/1/scenario.yaml"))
        assert again == scenario


class TestPlugins:
    """``plugins:``."""

    pytestmark = pytest.mark.usefixtures("own_registry")

    def test_a_plugin_beside_the_scenario_can_be_named(self, write, minimal_yaml):
        """Its field is called as a method of pydantic's models, which must not matter."""
        write(PLUGIN, "configs/own_plugin.py")
        text = minimal_yaml.replace("lrate: 0.1", "lrate: 0.1, modules: [[doubling, {schema: 3}]]")
        name = write(f"plugins: [own_plugin]\n{text}", "configs/s.yaml")
        (module,) = load_scenario(name).client.optimizer.modules
        assert (module.name, module.schema) == ("doubling", 3)

    def test_the_search_path_is_the_scenarios_folder_and_the_current_one(
        self, write, minimal_yaml, tmp_path
    ):
        scenario = load_scenario(write(minimal_yaml, "configs/s.yaml"))
        assert scenario.search == (str(tmp_path / "configs"), str(tmp_path))

    def test_a_plugin_that_is_not_there_has_its_line(self, faults, minimal_yaml):
        assert faults(f"{minimal_yaml}plugins:\n  - no_such_plugin\n") == [
            "s.yaml:9: plugins[0]: cannot import module 'no_such_plugin' "
            "(ModuleNotFoundError: No module named 'no_such_plugin')"
        ]

    def test_a_plugin_that_raises_says_what(self, write, faults, minimal_yaml):
        write("1 / 0", "broken_plugin.py")
        assert faults(f"{minimal_yaml}plugins: [broken_plugin]\n") == [
            "s.yaml:8: plugins[0]: cannot import module 'broken_plugin' "
            "(ZeroDivisionError: division by zero)"
        ]

    def test_a_field_called_kind_is_refused(self, write, minimal):
        source = PLUGIN.replace("schema: int = 2", "kind: int = 2").replace("self.schema", "2")
        write(source, "own_plugin.py")
        minimal["plugins"] = ["own_plugin"]
        minimal["client"]["optimizer"]["modules"] = ["doubling"]
        with pytest.raises(ScenarioError) as raised:
            load_scenario(minimal)
        assert raised.value.faults == [
            "client.optimizer.modules[0]: doubling has a field called 'kind', which in a scenario "
            "is the name of the component; rename the field"
        ]


def test_a_scenario_cannot_be_changed(minimal):
    scenario = load_scenario(minimal)
    with pytest.raises(FrozenInstanceError):
        scenario.rounds = 5


def test_a_path_object_will_do(write, minimal_yaml):
    assert load_scenario(Path(write(minimal_yaml))).rounds == 3
