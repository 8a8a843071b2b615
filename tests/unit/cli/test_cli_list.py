"""``simfl list``, ``simfl schema`` and ``simfl data``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np

from simfl.cli.output import print_table
from simfl.scenario.components import component_kinds


def test_everything_that_can_be_named_is_listed(simfl):
    result = simfl("list")
    assert result.exit_code == 0
    titles = [line for line in result.stdout.splitlines() if line.startswith("# ")]
    expected = [
        f"# {what} {name}" for what, root in component_kinds().items() for name in root.registry
    ]
    assert [title.partition(":")[0] for title in titles] == expected


def test_one_kind_is_listed_with_fields_types_and_defaults(simfl):
    lines = simfl("list", "aggregator").stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("# aggregator trimmed-mean: "))
    assert lines[at + 1].split() == ["field", "type", "default", "meaning"]
    start = ["trim", "number", ">", "0", "and", "<", "0.5", "0.1", "The", "share"]
    assert lines[at + 2].split()[: len(start)] == start


def test_on_a_terminal_tables_are_drawn(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(("field", "type"), [("beta", "[bold]number")], title="module ewma")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = [line.split() for line in plain.splitlines()]
    assert lines[0] == ["module", "ewma"]
    assert ["field", "type"] in lines
    assert ["beta", "[bold]number"] in lines


def test_a_misspelt_kind_is_bad_input(simfl):
    result = simfl("list", "modul")
    assert result.exit_code == 2
    assert result.stderr == "no kind named 'modul'. Did you mean 'module'?\n"


def test_the_list_is_there_for_programs(simfl):
    listed = json.loads(simfl("list", "aggregator", "--json").stdout)
    field = listed["aggregator"]["trimmed-mean"]["fields"][0]
    assert (field["key"], field["type"], field["default"]) == (
        "trim",
        "number > 0 and < 0.5",
        "0.1",
    )


def test_the_schema_is_printed(simfl):
    schema = json.loads(simfl("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)


def test_data_are_shown_as_a_table_and_a_picture(simfl):
    """Two clients; the first has the labels 0, 0, 1, the second 1."""
    np.savez(
        "a.npz",
        inputs=np.zeros((4, 2), np.float32),
        targets=np.array([0, 0, 1, 1]),
        client=np.array([0, 0, 0, 1]),
    )
    Path("s.yaml").write_text(
        "rounds: 1\ndata: {source: npz, path: a.npz, partition: natural}\n"
        "model: {kind: logistic}\nclient: {optimizer: {lrate: 0.1}}\n"
    )
    result = simfl("data", "s.yaml", "--png", "skew.png")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["clients", "2"] in lines
    assert ["examples", "that", "clients", "train", "on", "4"] in lines
    assert ["0", "3", "2", "1"] in lines
    assert ["1", "1", "0", "1"] in lines
    assert Path("skew.png").read_bytes()[:4] == b"\x89PNG"
    before = set(Path().iterdir())
    assert simfl("data", "s.yaml").exit_code == 0
    assert set(Path().iterdir()) == before
    result = simfl("data", "s.yaml", "--png", "no/folder.png")
    assert result.exit_code == 2
    assert "cannot write the picture: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_data_file_that_is_not_there_is_bad_input(simfl):
    Path("s.yaml").write_text(
        "rounds: 1\ndata: {source: npz, path: a.npz}\n"
        "model: {kind: logistic}\nclient: {optimizer: {lrate: 0.1}}\n"
    )
    result = simfl("data", "s.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("s.yaml:2: data.path: is 'a.npz'")
