"""A scenario that is not trusted runs no code of its author's."""

from __future__ import annotations

import sys

import pytest

from simfl.errors import ScenarioError
from simfl.scenario import load_scenario, own_address
from simfl.scenario.components import component_kinds
from simfl.scenario.sweeps import load_sweep

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
WHY = "which runs code of the scenario's author, and trust is 'none'; remove it, or check that "
WHY += "the code is safe and trust it"
REST = "rounds: 3\nmodel: {kind: mlp}\nclient: {optimizer: {lrate: 0.1}}\n"


@pytest.fixture(autouse=True)
def _code_that_must_not_run(write, own_registry):
    """Importing one of these modules ends the test."""
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


@pytest.mark.parametrize(
    "loss",
    ["[sam, {of: [python, {path: own_work:x}]}]", "{kind: sam, of: {kind: python, path: a:b}}"],
)
def test_a_python_loss_within_another_is_refused(minimal_yaml, write, loss):
    with pytest.raises(ScenarioError, match=r"^--set: model\.loss\.of.*: is 'python', which runs"):
        load_scenario(write(minimal_yaml), overrides=[f"model.loss={loss}"], trust="none")


def test_with_trust_the_same_code_is_run(write):
    """The fixture's code exits, which is reported: the other tests would see it run."""
    with pytest.raises(ScenarioError, match="SystemExit: this code was run"):
        load_scenario(write(CODE))


def test_an_override_that_names_code_is_refused_too(write, minimal_yaml):
    with pytest.raises(ScenarioError, match=r"^--set: plugins\[0\]: is 'own_plugin', which runs"):
        load_scenario(write(minimal_yaml), overrides=["plugins=[own_plugin]"], trust="none")


def test_where_modules_are_looked_for_stays_as_it_is(write, minimal_yaml):
    """A file torch.py or sklearn.py next to the scenario would shadow the package."""
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
    assert named == {"source python", "augmentation python", "model python", "loss python"}


@pytest.mark.parametrize(
    "location",
    [
        "reference::file:///tmp/refs.json",
        "reference://x::file:///tmp/refs.json",
        "simplecache::s3://bucket/runs",
        "s3://bucket/runs::reference://x",
        "https://host/runs",
        "ssh://host/runs",
        "dask://host/runs",
        "FILE:///tmp/x",
    ],
)
def test_places_that_may_run_code_are_refused(minimal, location):
    """Those of fsspec's that are read through others, or lead to more than files."""
    minimal["checkpoint"] = {"location": location}
    load_scenario(minimal)
    with pytest.raises(ScenarioError, match=r"^checkpoint\.location: is .* and trust is 'none'"):
        load_scenario(minimal, trust="none")


@pytest.mark.parametrize(
    "location", ["saved", "/tmp/a b", "file:///tmp/saved", "memory://saved", "s3://bucket/runs/1"]
)
def test_other_places_are_let_through(minimal, location):
    minimal["checkpoint"] = {"location": location}
    assert load_scenario(minimal, trust="none").checkpoint.location == location


def test_a_clusters_address_comes_from_the_user_alone(minimal):
    """The user's Ray token is sent to it."""
    minimal["cluster"] = {"address": "10.0.0.5:6379"}
    with pytest.raises(ScenarioError, match=r"^cluster\.address: is '10.0.0.5:6379', where your"):
        load_scenario(minimal, trust="none")
    own = own_address("127.0.0.1:6379", "none")
    assert load_scenario(minimal, overrides=own, trust="none").cluster.address is None
    minimal["cluster"] = {"address": "local"}
    load_scenario(minimal, trust="none")


@pytest.mark.parametrize("tracker", ["wandb", ["mlflow", {"tracking_uri": "http://host:5000"}]])
def test_trackers_that_log_in_as_the_user_are_refused(minimal, tracker):
    minimal["output"] = {"observers": [tracker]}
    with pytest.raises(ScenarioError, match=r"observers\[0\]: is '\w+', which logs in as you"):
        load_scenario(minimal, trust="none")
    assert load_scenario(minimal).output.observers


def test_what_a_trial_is_given_is_refused_as_the_scenarios_own(minimal):
    """A sweep's folder says which values a searcher has proposed, of any key."""
    minimal["sweep"] = {"over": {"seed": [0, 1]}}
    plan = load_sweep(minimal, trust="none")
    for values, key in [
        ({"plugins": ["own_plugin"]}, "plugins"),
        ({"search": ["."]}, "search"),
        ({"checkpoint": {"location": "reference::x"}}, "checkpoint.location"),
        ({"cluster": {"address": "10.0.0.5:6379"}}, "cluster.address"),
    ]:
        with pytest.raises(ScenarioError, match=f"{key}: .*trust is 'none'"):
            plan.scenario(values)


def test_what_a_case_sets_is_refused_as_the_scenarios_own(minimal):
    loss = {"kind": "python", "path": "own_work:loss"}
    for value, key in [
        ({"model.loss": loss}, "model.loss"),
        ({"checkpoint": {"location": "reference::x"}}, "checkpoint.location"),
        ({"cluster": {"address": "10.0.0.5:6379"}}, "cluster.address"),
    ]:
        minimal["sweep"] = {"cases": {"theirs": value}}
        with pytest.raises(ScenarioError, match=rf"^{key}.*trust is 'none'.*label=theirs"):
            load_sweep(minimal, trust="none")


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
        r"s.yaml:8: output.dir: is 'a\x00b', which contains a NUL character; remove it",
        r"s.yaml:9: name: is '\ud800', which contains half of a surrogate pair; remove it",
    ]


def test_a_model_on_the_hub_is_named_with_its_revision(write, minimal_yaml):
    def with_model(lines: str) -> str:
        return write(
            minimal_yaml.replace("model: {kind: mlp}", f"model:\n  kind: huggingface\n{lines}")
        )

    loose = with_model("  path: someone/model")
    load_scenario(loose)
    assert untrusted(loose) == [
        "s.yaml:6: model.kind: names 'someone/model' on the hub without model.revision, so that "
        "anything may be downloaded, and trust is 'none'; set model.revision to a commit, or trust "
        "the scenario"
    ]
    load_scenario(with_model("  path: someone/model\n  revision: 0a1b2c"), trust="none")
    load_scenario(with_model("  config: {model_type: llama}\n  lora: {rank: 2}"), trust="none")


@pytest.mark.parametrize("source", ["huggingface", "text"])
@pytest.mark.parametrize("key", ["source", "public"])
def test_data_on_the_hub_are_named_with_their_revision(write, tmp_path, source, key):
    fields = {"huggingface": "inputs: x", "text": "client: who"}[source]

    def with_data(more: str) -> str:
        named = f"{fields}, {more}"
        if key == "source":
            data = f"{{source: {source}, {named}, partition: {{kind: iid, clients: 2}}}}"
        else:
            public = f"public: {{kind: {source}, {named}}}"
            data = f"{{source: digits, {public}, partition: {{kind: iid, clients: 2}}}}"
        return write(REST + f"data: {data}\n")

    loose = with_data("path: someone/data")
    load_scenario(loose)
    (line,) = untrusted(loose)
    assert line.endswith(
        "names 'someone/data' on the hub without revision, so that anything may be downloaded, and "
        "trust is 'none'; set revision to a commit, or trust the scenario"
    )
    load_scenario(with_data("path: someone/data, revision: 0a1b2c"), trust="none")
    load_scenario(with_data(f"path: {tmp_path}"), trust="none")


def test_data_without_a_revision_have_the_fingerprint_of_earlier_versions(write):
    public = "public: {kind: text, path: other.jsonl}"
    data = f"data: {{source: text, path: x.jsonl, client: who, {public}}}\n"
    numbers = load_scenario(write(REST + data)).numbers()["data"]
    assert "revision" not in numbers | numbers["public"]
    assert (numbers["path"], numbers["public"]["path"]) == ("x.jsonl", "other.jsonl")
