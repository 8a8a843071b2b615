"""docs/agents.md and llms.txt: the commands print what the page says, and the links lead on."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from typer.testing import CliRunner

from simfl.cli.main import app
from simfl.scenario.components import component_kinds

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_print_what_it_says() -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.M | re.S)
    commands = re.findall(r"^\$ simfl (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), flags=re.M)
    assert len(commands) == 7
    for line, expected in commands:
        arguments, _, comment = line.partition("#")
        result = CliRunner().invoke(app, arguments.split())
        code = int(comment.rpartition(" ")[2]) if comment else 0
        assert result.exit_code == code, result.output
        matches = doctest.OutputChecker().check_output(expected, result.stdout, doctest.ELLIPSIS)
        assert matches, f"$ simfl {line}\n{result.stdout}"


def test_the_page_names_the_commands_with_json_and_all_kinds() -> None:
    has_json = {
        info.name
        for info in app.registered_commands
        if "\n  --json " in CliRunner().invoke(app, [info.name, "--help"]).stdout
    }
    sentence = re.search(r"option of (.*?)\.\n", PAGE, flags=re.S)
    assert sentence
    assert set(re.findall(r"`(\w+)`", sentence[1])) == has_json
    kinds = re.search(r"The kinds are (.*?)\.\n", PAGE, flags=re.S)
    assert kinds
    assert re.findall(r"`([\w-]+)`", kinds[1]) == list(component_kinds())


def test_the_links_of_llms_txt_lead_to_files() -> None:
    links = re.findall(r"\]\((.*?)\)", (ROOT / "llms.txt").read_text(encoding="utf-8"))
    assert links
    assert all((ROOT / link).is_file() for link in links)
