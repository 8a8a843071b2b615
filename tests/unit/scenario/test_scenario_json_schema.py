"""The JSON Schema says of a scenario what loading it says."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest

from simfl.errors import ScenarioError
from simfl.scenario import load_scenario
from simfl.scenario.components import component_kinds
from simfl.scenario.document import Document
from simfl.scenario.json_schema import component_schema, scenario_schema
from simfl.scenario.overrides import apply_overrides

# Made within the first test, once other tests' components are hidden, and then kept.
_schema = cache(scenario_schema)


@pytest.fixture
def schema() -> dict[str, Any]:
    return _schema()


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_schema())


@pytest.fixture
def validator() -> jsonschema.Draft202012Validator:
    return _validator()


def test_the_schema_is_valid(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_is_plain_json(schema):
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def nodes(schema: Any):
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from nodes(value)


def test_nothing_stands_beside_a_reference_and_each_leads_somewhere(schema):
    references = [node for node in nodes(schema) if "$ref" in node]
    assert len(references) >= 20
    for node in references:
        assert set(node) == {"$ref"}
        assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def test_no_placeholder_is_left(schema):
    assert not [node for node in nodes(schema) if "x-component" in node]


def test_every_key_has_a_description(schema):
    for name, section in [("", schema), *schema["$defs"].items()]:
        for key, value in section.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key}"


def test_every_field_of_every_component_has_a_description():
    for what, root in component_kinds().items():
        for name, cls in root.registry.items():
            described = component_schema(cls)
            assert described["description"], f"{what} {name}"
            for field, value in described["properties"].items():
                assert value.get("description"), f"{what} {name}: {field}"


def test_every_name_is_in_the_schema(schema):
    constants = {node["const"] for node in nodes(schema) if isinstance(node.get("const"), str)}
    for root in component_kinds().values():
        assert constants >= set(root.registry)


BOTH = [
    ([], True),
    (["name=x"], True),
    (["name=3"], False),
    (["seed=-1"], False),
    (["rounds=0"], False),
    (["rounds="], False),
    (["rounds='3'"], False),
    (["sede=3"], False),
    (["plugins=x"], False),
    (["data={}"], False),
    (["data={source: digits}"], True),
    (["data={source: nothing}"], False),
    (["data={source: synthetic, alpha: 0.5}"], True),
    (["data={source: synthetic, alpha: -0.5}"], False),
    (["data={source: digits, alpha: 0.5}"], False),
    (["data={source: npz}"], False),
    (["data.partition="], True),
    (["data.partition=natural"], True),
    (["data.partition=iid"], False),
    (["data.partition=[iid, {clients: 5}]"], True),
    (["data.partition=[iid, {clients: 0}]"], False),
    (["data.partition=[iid]"], False),
    (["data.partition={clients: 5}"], False),
    (["data.partition={kind: iid, clients: 5, x: 1}"], False),
    (["data.test_fraction=0.5"], True),
    (["data.test_fraction=1"], False),
    (["data.test_fraction=half"], False),
    (["model={kind: mlp, hidden: [8, 8], loss: mse}"], True),
    (["model={kind: mlp, hidden: [0]}"], False),
    (["model={kind: mlp, hidden: 8}"], False),
    (["model={kind: mlp, loss: [huber, {delta: 2}]}"], True),
    (["model={kind: mlp, loss: [huber, {delta: 0}]}"], False),
    (["model={hidden: [8]}"], False),
    (["client.steps=5"], True),
    (["client.epochs=5", "client.steps="], True),
    (["client.epochs=5", "client.steps=5"], False),
    (["client.epochs=0.5"], True),
    (["client.epochs=0"], False),
    (["client.steps=0.5"], False),
    (["client.epochs=[stragglers, {share: 0.9, full: 20}]"], True),
    (["client.epochs=[stragglers, {full: 20}]"], False),
    (["client.epochs=[stragglers, {share: 0.9, full: 20}]", "client.steps=5"], False),
    (["client.steps={kind: uniform-int, high: 5}"], True),
    (["client.per_round=0.1"], True),
    (["client.per_round=1.5"], False),
    (["client.per_round=0"], False),
    (["client.batch_size="], True),
    (["client.sclip=0"], True),
    (["client.sclip=-1"], False),
    (["client.sampler=weighted"], True),
    (["client.sampler=all"], False),
    (["client.on_nonfinite=drop"], True),
    (["client.on_nonfinite=ignore"], False),
    (["client.keep_state=1"], False),
    (["client.optimizer={}"], False),
    (["client.optimizer.lrate=-1"], False),
    (["client.optimizer.lrate=fast"], False),
    (["client.optimizer.lrate=[cosine, {base: 0.1, length: 10}]"], True),
    (["client.optimizer.lrate=[cosine, {base: 0.1}]"], False),
    (["client.optimizer.lrate={kind: cosine, base: 0.1, length: 10, unit: step}"], True),
    (["client.optimizer.lrate={kind: cosine, base: 0.1, length: 10, unit: day}"], False),
    (["client.optimizer.modules=[momentum, [adam, {beta_1: 0.5}], {kind: ewma}]"], True),
    (["client.optimizer.modules=momentum"], False),
    (["client.optimizer.modules=[[adam, {beta_1: 2}]]"], False),
    (["client.optimizer.modules=[[adam, {}, {}]]"], False),
    (["client.optimizer.regularizers=[[fedprox, {alpha: 1}]]"], True),
    (["server={}"], True),
    (["server="], False),
    (["server.weighting=steps"], True),
    (["server.weighting=size"], False),
    (["server.aggregator=[trimmed-mean, {trim: 0.2}]"], True),
    (["server.aggregator=[trimmed-mean, {trim: 0.5}]"], False),
    (["evaluation.every=0"], True),
    (["evaluation.metrics=[accuracy, [top-k, {k: 3}]]"], True),
    (["evaluation.metrics=[[top-k, {k: 0}]]"], False),
    (["cluster.actors=auto"], True),
    (["cluster.actors=4"], True),
    (["cluster.actors=all"], False),
    (["cluster.num_cpus=0.5"], True),
    (["output.dir=3"], False),
]


@pytest.mark.parametrize(("overrides", "is_good"), BOTH, ids=lambda value: str(value)[:60])
def test_the_schema_and_loading_agree(validator, minimal, overrides, is_good):
    plain = apply_overrides(Document(minimal), overrides).values
    assert validator.is_valid(plain) == is_good
    if is_good:
        load_scenario(plain)
    else:
        with pytest.raises(ScenarioError):
            load_scenario(plain)


def test_the_schema_takes_resolved_scenarios(validator, minimal):
    resolved = load_scenario(minimal).to_dict()
    assert [error.message for error in validator.iter_errors(resolved)] == []
