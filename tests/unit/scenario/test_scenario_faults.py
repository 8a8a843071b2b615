"""One clear line per fault: file, line, key path, value and remedy."""

from __future__ import annotations

import re

import pytest


def with_line(text: str, line: str, *, under: str) -> str:
    """Put a line beneath the one that begins with ``under``."""
    lines = text.splitlines()
    index = next(i for i, known in enumerate(lines) if known.startswith(under))
    return "\n".join([*lines[: index + 1], line, *lines[index + 1 :]])


@pytest.mark.parametrize(
    ("line", "under", "expected"),
    [
        (
            "  epoch: 5",
            "client",
            "s.yaml:7: client.epoch: is 5, but there is no such key. Did you mean 'epochs'?",
        ),
        (
            "  tset_fraction: 0.2",
            "data",
            "s.yaml:3: data.tset_fraction: is 0.2, but there is no such key. "
            "Did you mean 'test_fraction'?",
        ),
        (
            "  per_round: ten",
            "client",
            "s.yaml:7: client.per_round: is 'ten'; should be an integer or a number",
        ),
        (
            "  per_round: 10.0",
            "client",
            "s.yaml:7: client.per_round: is 10.0; should be an integer or less than 1",
        ),
        (
            '  per_round: "10"',
            "client",
            "s.yaml:7: client.per_round: is '10'; should be an integer or a number",
        ),
        (
            "  per_round: true",
            "client",
            "s.yaml:7: client.per_round: is true; should be an integer or a number",
        ),
        (
            "  per_round: 0",
            "client",
            "s.yaml:7: client.per_round: is 0; should be at least 1 or greater than 0",
        ),
        (
            "  per_round: 1.0",
            "client",
            "s.yaml:7: client.per_round: is 1.0; should be an integer or less than 1",
        ),
        ("  epochs: 0", "client", "s.yaml:7: client.epochs: is 0; should be greater than 0"),
        ("  steps: 2.5", "client", "s.yaml:7: client.steps: is 2.5; should be an integer"),
        (
            "  epochs: stragler",
            "client",
            "s.yaml:7: client.epochs: is 'stragler'; should be a number or the name of a work. "
            "Did you mean 'stragglers'?",
        ),
        (
            "  epochs: [stragglers, {share: 1.5, full: 20}]",
            "client",
            "s.yaml:7: client.epochs.share: is 1.5; should be at most 1",
        ),
        (
            "  keep_state: 1",
            "client",
            "s.yaml:7: client.keep_state: is 1; should be true or false",
        ),
        ("  sclip: -1", "client", "s.yaml:7: client.sclip: is -1; should be at least 0"),
        (
            "  sclip: .nan",
            "client",
            "s.yaml:7: client.sclip: is nan; should be a finite number",
        ),
        (
            "  on_nonfinite: rise",
            "client",
            "s.yaml:7: client.on_nonfinite: is 'rise'; should be 'raise' or 'drop'. "
            "Did you mean 'raise'?",
        ),
        (
            "  test_fraction: 1",
            "data",
            "s.yaml:3: data.test_fraction: is 1; should be less than 1",
        ),
        (
            "  1: x",
            "client",
            "s.yaml:6: client: has the key 1, which is not text; put it in quotes",
        ),
    ],
)
def test_a_fault_of_a_key_is_one_line(faults, minimal_yaml, line, under, expected):
    assert faults(with_line(minimal_yaml, line, under=under)) == [expected]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("sever: {}", "sever: is {}, but there is no such key. Did you mean 'server'?"),
        ("server: 5", "server: is 5; should be a mapping of keys"),
        ("server:", "server: is null; write its keys beneath it"),
        (
            "sweep: {cases: {1: {}}}",
            "sweep.cases: has the key 1, which is not text; put it in quotes",
        ),
        (
            "server: {weighting: exmples}",
            "server.weighting: is 'exmples'; should be 'examples', 'tokens', 'steps' or 'uniform'. "
            "Did you mean 'examples'?",
        ),
        (
            "server: {aggregator: trimed-mean}",
            "server.aggregator: no aggregator named 'trimed-mean'. Did you mean 'trimmed-mean'?",
        ),
        (
            "server: {aggregator: {kind: trimmed-mean, trim: 0.5}}",
            "server.aggregator.trim: is 0.5; should be less than 0.5",
        ),
        (
            "server: {aggregator: [trimmed-mean, {trm: 0.1}]}",
            "server.aggregator.trm: is 0.1, but there is no such key. Did you mean 'trim'?",
        ),
        (
            "server: {optimizer: {lrate: fast}}",
            "server.optimizer.lrate: is 'fast'; should be a number or the name of a schedule. "
            "Known: constant, cosine, cosine-restarts, exponential, inverse-time, linear, "
            "piecewise, polynomial, triangular, warm-up.",
        ),
        (
            "server: {optimizer: {lrate: -1}}",
            "server.optimizer.lrate: is -1; should be at least 0",
        ),
        (
            "server: {optimizer: {lrate: true}}",
            "server.optimizer.lrate: is true; should be a number",
        ),
        (
            "server: {optimizer: {lrate: [cosin, {}]}}",
            "server.optimizer.lrate: no schedule named 'cosin'. Did you mean 'cosine'?",
        ),
        (
            "server: {optimizer: {modules: momentum}}",
            "server.optimizer.modules: is 'momentum'; should be a list",
        ),
        (
            "server: {optimizer: {modules: [3]}}",
            "server.optimizer.modules[0]: is 3; should be the name of a module, "
            "[name, {field: value}] or {kind: name}",
        ),
        (
            "server: {optimizer: {modules: [momentum, 0.9]}}",
            "server.optimizer.modules[1]: is 0.9; should be the name of a module, "
            "[name, {field: value}] or {kind: name}",
        ),
        (
            "server: {optimizer: {modules: [momentun]}}",
            "server.optimizer.modules[0]: no module named 'momentun'. Did you mean 'momentum'?",
        ),
        (
            "server: {optimizer: {modules: [{kind: 7}]}}",
            "server.optimizer.modules[0].kind: is 7; should be text",
        ),
        (
            "server: {optimizer: {modules: [[momentum, {beta: high}]]}}",
            "server.optimizer.modules[0].beta: is 'high'; should be a number",
        ),
        (
            "evaluation: {metrics: [acuracy]}",
            "evaluation.metrics[0]: no metric named 'acuracy'. Did you mean 'accuracy'?",
        ),
        (
            "evaluation: {metrics: [accuracy, accuracy]}",
            "evaluation.metrics: 'accuracy' is listed twice; keep one of them",
        ),
        (
            "cluster: {actors: many}",
            "cluster.actors: is 'many'; should be an integer or 'auto'",
        ),
        (
            "cluster: {actors: 0}",
            "cluster.actors: is 0; should be at least 1 or 'auto'",
        ),
        ("output: {dir: 3}", "output.dir: is 3; should be text"),
        (
            "name: {question}",
            "name: is {question: null}; should be text; put it in quotes, as YAML reads braces as "
            "a mapping",
        ),
        ("seed: -1", "seed: is -1; should be at least 0"),
        ("plugins: [1]", "plugins[0]: is 1; should be text"),
        ("plugins: own", "plugins: is 'own'; should be a list"),
    ],
)
def test_a_fault_of_a_section_is_one_line(faults, minimal_yaml, section, expected):
    """The section is put in line 8, after the minimal scenario."""
    assert faults(minimal_yaml + section + "\n") == [f"s.yaml:8: {expected}"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{kind: mpl}", "model.kind: no model named 'mpl'. Did you mean 'mlp'?"),
        (
            "{kind: mlp, hiden: [3]}",
            "model.hiden: is [3], but there is no such key. Did you mean 'hidden'?",
        ),
        (
            "{kind: mlp, los: mse}",
            "model.los: is 'mse', but there is no such key. Did you mean 'loss'?",
        ),
        ("{kind: mlp, hidden: [a, 3]}", "model.hidden[0]: is 'a'; should be an integer"),
        ("{kind: mlp, hidden: 64}", "model.hidden: is 64; should be a list"),
        (
            "{kind: mlp, loss: [huber, {delta: -1}]}",
            "model.loss.delta: is -1; should be greater than 0",
        ),
        ("{kind: 3}", "model.kind: is 3; should be text"),
        ("{hidden: [3]}", "model.kind: is missing and has no default; add for example `kind: mlp`"),
        ("{kind: python}", "model.path: is missing and has no default; add it"),
    ],
)
def test_the_fields_of_a_model_lie_in_its_section(faults, minimal_yaml, model, expected):
    text = minimal_yaml.replace("{kind: mlp}", model)
    assert faults(text) == [f"s.yaml:5: {expected}"]


def test_missing_keys_point_at_the_section_that_lacks_them(faults):
    text = "data:\n  source: digits\nmodel: {kind: mlp}\nclient:\n  optimizer:\n    w_decay: 0.1\n"
    assert faults(text) == [
        "s.yaml:1: rounds: is missing and has no default; add for example `rounds: 100`",
        "s.yaml:5: client.optimizer.lrate: is missing and has no default; "
        "add for example `lrate: 0.1`",
    ]


def test_every_fault_is_told_in_the_order_of_the_file(faults):
    text = """\
rounds: 0
data:
  partition: {kind: dirichlet}
  source: digits
model: {kind: mlp}
client:
  batch_size: 0
  optimizer:
    lrate: 0.1
    modules:
      - momentum
      - [adam,
         {beta_1: 2}]
sede: 1
"""
    assert [line.split(":")[1] for line in faults(text)] == ["1", "3", "3", "7", "13", "14"]


def test_a_field_of_several_types_is_one_fault(faults, minimal_yaml):
    """``inputs`` of the huggingface source is text or a list of text: the list has the fault."""
    text = minimal_yaml.replace("source: digits", "source: huggingface\n  inputs: [a, 3]")
    text = text.replace("huggingface", "huggingface\n  path: .")
    assert faults(text) == ["s.yaml:5: data.inputs[1]: is 3; should be text"]


def test_data_given_in_python_has_no_line(faults, minimal):
    faulty = {**minimal, "rounds": 0}
    assert faults(faulty) == ["rounds: is 0; should be at least 1"]


def test_values_that_yaml_cannot_hold_are_told_of(faults, minimal):
    faulty = {**minimal, "rounds": object, "name": {1, 2}}
    assert faults(faulty) == [
        "name: is {1, 2}; should be text",
        "rounds: is <class 'object'>; should be an integer",
    ]


def test_long_values_are_shortened(faults, minimal):
    (line,) = faults({**minimal, "rounds": "x" * 1000})
    assert re.fullmatch(r"rounds: is 'x{56}\.\.\.; should be an integer", line)


def test_a_check_of_several_fields_names_the_component(faults, minimal):
    minimal["data"] = {"source": "synthetic", "min_examples": 50, "max_examples": 5}
    (line,) = faults(minimal)
    expected = "data.source: synthetic: max_examples is 5, less than min_examples, 50; raise it"
    assert line == expected


def test_a_later_fault_has_the_place_of_its_key(write, minimal_yaml):
    from simfl.scenario import load_scenario

    scenario = load_scenario(write(minimal_yaml))
    fault = scenario.fault("data.partition.clients", "is 10, but ...; lower it")
    assert fault.faults == ["s.yaml:4: data.partition.clients: is 10, but ...; lower it"]


def test_a_later_fault_of_a_default_has_the_place_around_it(write, minimal_yaml):
    from simfl.scenario import load_scenario

    scenario = load_scenario(write(minimal_yaml))
    fault = scenario.fault("client.per_round", "is 200")
    assert fault.faults == ["s.yaml:6: client.per_round: is 200"]
