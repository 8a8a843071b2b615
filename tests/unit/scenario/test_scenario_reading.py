"""What can be wrong with a file before its keys are looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from simfl.errors import ScenarioError
from simfl.scenario import load_scenario
from simfl.scenario.reading import parse_value, read_document
from simfl.scenario.yaml_format import dump_yaml


def test_a_missing_file_is_named(faults, minimal_yaml):
    from simfl.errors import ScenarioError

    with pytest.raises(ScenarioError, match=r"^nope\.yaml: no such file"):
        load_scenario("nope.yaml")


def test_a_folder_is_not_a_scenario():
    from simfl.errors import ScenarioError

    Path("folder").mkdir()
    with pytest.raises(ScenarioError) as raised:
        load_scenario("folder")
    assert raised.value.faults == ["folder: is a folder; name a YAML file in it"]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"])
def test_an_empty_file_says_so(faults, text):
    assert faults(text) == ["s.yaml: is empty; `simfl schema` describes what goes in"]


@pytest.mark.parametrize("text", ["- rounds\n", "rounds\n", "3\n"])
def test_a_file_that_is_no_mapping_says_so(faults, text):
    assert faults(text) == ["s.yaml:1: is not a mapping of keys such as 'rounds: 100'"]


def test_a_file_that_is_not_utf8_names_the_byte(faults):
    expected = "s.yaml: is not UTF-8 text (byte 0xe9 at 9); save it as UTF-8"
    assert faults(b"name: caf\xe9\n") == [expected]


def test_a_file_with_a_byte_order_mark_is_read(write, minimal_yaml):
    assert load_scenario(write(b"\xef\xbb\xbf" + minimal_yaml.encode())).rounds == 3


def test_a_control_character_is_named(faults):
    (line,) = faults("name: a\x01b\n")
    assert line.startswith("s.yaml: is not valid YAML: ")
    assert "#x0001" in line


def test_a_duplicate_key_is_refused_with_both_lines(faults, minimal_yaml):
    expected = "s.yaml:8: the key 'rounds' occurs twice, in lines 1 and 8; keep one"
    assert faults(minimal_yaml + "rounds: 4\n") == [expected]


def test_a_duplicate_key_in_a_section_is_refused(faults):
    expected = "s.yaml:3: the key 'source' occurs twice, in lines 2 and 3; keep one"
    assert faults("data:\n  source: digits\n  source: npz\n") == [expected]


def test_a_second_document_is_refused(faults, minimal_yaml):
    expected = "s.yaml:8: a second document begins here; keep only one"
    assert faults(minimal_yaml + "---\nrounds: 4\n") == [expected]


def test_broken_yaml_is_refused_with_its_line(faults):
    expected = (
        "s.yaml:3: is not valid YAML: while parsing a flow sequence, "
        "expected ',' or ']', but got '<stream end>'"
    )
    assert faults("rounds: 1\nmodel: [1\n") == [expected]


def test_a_tab_is_refused_with_its_line(faults):
    (line,) = faults("data:\n\tsource: digits\n")
    assert line.startswith("s.yaml:2: is not valid YAML: ")


@pytest.mark.parametrize(
    "text", ["name: !!python/object:os.system x\n", "name: !mine x\n", "name: !!binary aGk=\n"]
)
def test_a_tag_is_refused(faults, text):
    (line,) = faults(text)
    assert line.startswith("s.yaml:1: has the tag '")


def test_a_tagged_collection_is_refused(faults):
    (line,) = faults("data: !!set {a, b}\n")
    assert line.startswith("s.yaml:1: has the tag 'tag:yaml.org,2002:set'")


@pytest.mark.parametrize("scalar", ["!!int x", "!!float x", "!!bool maybe", "!!int ''", "9" * 5000])
def test_a_scalar_that_python_cannot_make_is_refused(faults, scalar):
    (line,) = faults(f"rounds: {scalar}\n")
    assert line.startswith("s.yaml:1: ")
    assert "cannot be read" in line


def test_a_list_for_a_key_is_refused(faults):
    expected = "s.yaml:1: has a list or a mapping for a key; keys are text"
    assert faults("? [a, b]\n: 1\n") == [expected]


def test_an_alias_of_what_holds_it_is_refused(faults):
    assert faults("data: &a\n  source: *a\n") == [
        "s.yaml:1: is an alias of a value that contains this alias"
    ]


def test_aliases_that_multiply_are_refused(faults):
    """Ten lists of ten aliases each: 10 to the 10th values in 200 characters."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (line,) = faults("\n".join(lines))
    assert "has more than 100,000 values" in line


@pytest.mark.parametrize("depth", [52, 250, 5000])
def test_deep_nesting_is_refused(faults, depth):
    assert faults("[" * depth + "]" * depth) == ["s.yaml:1: is nested too deeply"]


def test_many_values_are_refused_before_they_are_written_out(faults):
    (line,) = faults("\n".join(["rounds: 1", "x: ["] + [" 1,"] * 100_000 + ["]"]))
    assert line.endswith("has more than 100,000 values, with aliases expanded")


def test_merge_keys_that_multiply_are_read_at_once(faults):
    """Thirty mappings, each of which merges the one before nine times: 9 to the 29th entries."""
    lines = ["a0: &a0 {k0: 1, k1: 1, k2: 1}"]
    lines += [
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], x{i}: 1}}" for i in range(1, 30)
    ]
    assert {line.partition(": ")[2].partition(":")[0] for line in faults("\n".join(lines))} >= {
        f"a{i}" for i in range(30)
    }


def test_merge_keys_in_a_long_chain_are_refused(faults):
    """The outermost is the first to be read, before those that it merges."""
    chain = "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, x: 1}}, " for i in range(1, 2000))
    text = f"y: 1\nx: {{<<: {{z: {{a0: &a0 {{}}, {chain}}}, <<: *a1999}}}}\n"
    assert faults(text) == ["s.yaml:2: is nested too deeply"]


def test_a_mapping_that_merges_itself_is_refused(faults):
    assert faults("a: &a {<<: *a}") == ["s.yaml:1: is an alias of a value that contains this alias"]


@pytest.mark.parametrize(
    "text",
    [
        "{<<: {a: 1, b: 2}, b: 3}",
        "{b: 3, <<: {a: 1, b: 2}, c: 4}",
        "{<<: [{a: 1, b: 2}, {b: 3, c: 4}], c: 5}",
        "[&x {a: 1}, &y {<<: *x, b: 2}, {<<: [*x, *y], a: 3}, {<<: *y}]",
        "{<<: {<<: {a: 1}, b: 2}, d: {<<: {e: 1}}}",
    ],
)
def test_merge_keys_mean_what_they_mean_to_pyyaml(text):
    value = parse_value(text, origin="x")
    assert value == yaml.safe_load(text)
    assert repr(value) == repr(yaml.safe_load(text))  # the order, too


@pytest.mark.parametrize("text", ["{<<: 1}", "{<<: [{a: 1}, 2]}", "{<<: [[{a: 1}]]}"])
def test_what_is_merged_and_no_mapping_is_refused(text):
    with pytest.raises(ScenarioError, match="is merged with '<<', but is not a mapping"):
        parse_value(text, origin="x")


TWO_WAYS = """010 -017 08 0_1 1_000 1_0 0b101 -0x1f 0x1_f 0o17 1:30 190:20:30 yes No ON off"""


@pytest.mark.parametrize("text", TWO_WAYS.split())
def test_what_yaml_1_1_and_1_2_read_differently_is_refused_unless_quoted(text):
    with pytest.raises(ScenarioError, match="means different things in YAML 1"):
        parse_value(text, origin="x")
    assert parse_value(f"'{text}'", origin="x") == text
    written = dump_yaml({"key": text})
    assert parse_value(written, origin="x") == {"key": text} == yaml.safe_load(written)


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("0", 0), ("-7", -7), ("0x1f", 31), ("0.5", 0.5), ("a:30", "a:30"), ("n", "n")],
)
def test_what_both_read_alike_is_read(text, value):
    assert parse_value(text, origin="x") == value


def test_aliases_and_merge_keys_are_taken(write):
    text = """\
rounds: 1
data: {source: digits, partition: {kind: iid, clients: 10}}
model: {kind: mlp}
client:
  optimizer: &optimizer {lrate: 0.1, modules: [momentum]}
server:
  optimizer:
    <<: *optimizer
    lrate: 0.5
"""
    scenario = load_scenario(write(text))
    assert scenario.server.optimizer.lrate == 0.5
    assert scenario.server.optimizer.modules == scenario.client.optimizer.modules


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2e+3", -2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("2024-01-31", "2024-01-31"),
        ("1e", "1e"),
        ("e3", "e3"),
        ("", None),
        ("true", True),
        ("[1, a]", [1, "a"]),
    ],
)
def test_scalars_are_read_as_people_mean_them(text, value):
    read = parse_value(text, origin="x")
    assert read == value
    assert type(read) is type(value)


def test_each_key_has_the_line_it_is_written_in(write, minimal_yaml):
    """Lines of the minimal scenario, counted by hand."""
    document = read_document(write(minimal_yaml))
    lines = {path: place.line for path, place in document.places.items()}
    assert lines[("rounds",)] == 1
    assert lines[("data",)] == 2
    assert lines[("data", "partition", "clients")] == 4
    assert lines[("client", "optimizer", "lrate")] == 7


def test_an_unreadable_file_says_why(monkeypatch, write, minimal_yaml):
    from simfl.errors import ScenarioError

    def refuse(path: Path, **_: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    name = write(minimal_yaml)
    monkeypatch.setattr("simfl.scenario.reading.read_regular", refuse)
    with pytest.raises(ScenarioError) as raised:
        load_scenario(name)
    assert raised.value.faults == ["s.yaml: cannot be read: Permission denied"]


def test_a_pipe_is_not_waited_for():
    os.mkfifo("pipe.yaml")
    Path("endless.yaml").symlink_to("/dev/zero")
    for name, what in [("pipe.yaml", "a named pipe"), ("endless.yaml", "a device")]:
        with pytest.raises(ScenarioError) as raised:
            load_scenario(name)
        expected = f"{name}: cannot be read: it is {what}, not a regular file"
        assert raised.value.faults == [expected]
