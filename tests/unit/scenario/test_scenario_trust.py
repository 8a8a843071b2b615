"""A scenario that is not trusted runs no code of its author's."""

from __future__ import annotations

import sys

import pytest

from simfl.errors import ScenarioError
from simfl.scenario import load_scenario
from simfl.scenario.kinds import component_kinds

CODE = """\
rounds: 3
search: [.]
data: {source: python, path: "own_work:load"}
model:
  kind: python
  path: own_work:Net
  loss: [python, {path: "own_work:loss"}]
client:
  optimizer: {lrate: 0.1}
"""
WHY = "which runs code of the scenario's author, and trust is 'none'; leave it out, or see that "
WHY += "the code is safe and trust it"


@pytest.fixture(autouse=True)
def _code_that_must_not_run(write, own_registry):
    """Whoever imports one of these modules ends the test."""
    for name in ("own_plugin.py", "own_work.py"):
        write("raise SystemExit('this code was run')", name)


def untrusted(name: str) -> list[str]:
    with pytest.raises(ScenarioError) as raised:
        load_scenario(name, trust="none")
    return raised.value.faults


def test_plugins_are_refused_with_a_line_each(write, minimal_yaml):
    name = write(f"{minimal_yaml}plugins:\n  - own_plugin\n  - other\n")
    assert untrusted(name) == [
        f"s.yaml:9: plugins[0]: is 'own_plugin', {WHY}",
        f"s.yaml:10: plugins[1]: is 'other', {WHY}",
    ]


def test_python_components_are_refused_with_a_line_each(write):
    assert untrusted(write(CODE)) == [
        f"s.yaml:3: data.source: is 'python', {WHY}",
        f"s.yaml:5: model.kind: is 'python', {WHY}",
        f"s.yaml:7: model.loss: is 'python', {WHY}",
    ]


def test_with_trust_the_same_code_is_run(write):
    """The fixture's code ends the process: that it does shows what the others would have missed."""
    with pytest.raises(SystemExit, match="this code was run"):
        load_scenario(write(CODE))


def test_an_override_that_names_code_is_refused_too(write, minimal_yaml):
    with pytest.raises(ScenarioError, match=r"^--set: plugins\[0\]: is 'own_plugin', which runs"):
        load_scenario(write(minimal_yaml), overrides=["plugins=[own_plugin]"], trust="none")


def test_where_modules_are_looked_for_stays_as_it_is(write, minimal_yaml):
    """A file torch.py or sklearn.py beside the scenario would be taken for the package."""
    before = list(sys.path)
    scenario = load_scenario(write(f"{minimal_yaml}search: [.]\n"), trust="none")
    assert sys.path == before
    assert scenario.search == ()  # which actors would go by


def test_a_scenario_without_code_is_the_same_with_and_without_trust(write, minimal_yaml):
    name = write(minimal_yaml)
    assert load_scenario(name, trust="none").fingerprint() == load_scenario(name).fingerprint()


def test_every_component_with_a_dotted_path_says_that_it_runs_code():
    """A new one that takes a path and imports it must not be forgotten."""
    named = {
        f"{what} {name}"
        for what, root in component_kinds().items()
        for name, cls in root.registry.items()
        if cls.runs_code
    }
    assert named == {"source python", "model python", "loss python"}


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/tmp/x", "a\\b", "", "a\nb", "a\x1b[31m", "ä" * 101]
)
def test_a_name_that_is_no_folders_is_refused(minimal, name):
    minimal["name"] = name
    with pytest.raises(ScenarioError, match=r"^name: is .* part of a folder's name") as raised:
        load_scenario(minimal)
    assert len(raised.value.faults) == 1


@pytest.mark.parametrize("name", ["Größe 3", "..", "a.b", "<b>", "ä" * 100])
def test_other_names_are_let_through(minimal, name):
    minimal["name"] = name
    assert load_scenario(minimal).name == name


def test_text_that_no_file_can_hold_is_refused_with_its_place(faults, minimal_yaml):
    text = minimal_yaml + 'output: {dir: "a\\0b"}\nname: "\\ud800"\n'
    assert faults(text) == [
        r"s.yaml:8: output.dir: is 'a\x00b', which holds a NUL character; leave that out",
        r"s.yaml:9: name: is '\ud800', which holds half of a character; leave that out",
    ]
