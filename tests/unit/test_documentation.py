"""The documentation is true: its code runs, its scenarios run, its links and tables lead somewhere.

What becomes of a fenced block is said by the words after its opening fence:

    python                run; the blocks of a file share one namespace, in order
    python file=NAME.py   written to NAME.py, for the other blocks and scenarios to import
    yaml scenario         run for two rounds, with the working folder on its search path; of a
                          sweep, the scenario alone
    {toctree}             a directive of the site, which its build checks

Each file's blocks run in a process of their own: what they register stays out of other tests. The
README's starts cold, so that what is imported gives no warning either.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm import WarmPython

from simfl.algorithms import Algorithm
from simfl.errors import ScenarioError
from simfl.scenario import load_scenario
from simfl.simulation.building import build

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))

RUN_SCENARIOS = """
import simfl
for path in {paths}:
    shortened = simfl.load_scenario(path, overrides=["rounds=2", "sweep=null"])
    simfl.run(shortened, out="out_" + path, backend="inline")
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after the fence, its first line's number, and its text."""

    words: tuple[str, ...]
    line: int
    text: str


def blocks_of(document: Path) -> list[Block]:
    found, opening, start = [], None, 0
    lines = document.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if opening is None:
            opening, start = tuple(line[3:].split()), number
        else:
            found.append(Block(opening, start + 1, "\n".join(lines[start : number - 1]) + "\n"))
            opening = None
    assert opening is None, f"{document.name}:{start}: this block is never closed"
    return found


def script_of(blocks: list[Block], scenarios: list[str]) -> str:
    """Put each block at its own line, so that a traceback's lines are the document's."""
    script = ""
    for block in blocks:
        if block.words == ("python",):
            script += "\n" * (block.line - 1 - script.count("\n")) + block.text
    return script + (RUN_SCENARIOS.format(paths=scenarios) if scenarios else "")


def write_blocks(blocks: list[Block], folder: Path) -> list[str]:
    """Write the files and the scenarios; return the names of the scenarios."""
    scenarios = []
    for block in blocks:
        if block.words == ("yaml", "scenario"):
            scenarios.append(f"line_{block.line}.yaml")
            (folder / scenarios[-1]).write_text(block.text, encoding="utf-8")
        elif len(block.words) == 2 and block.words[1].startswith("file="):
            (folder / block.words[1].removeprefix("file=")).write_text(block.text, encoding="utf-8")
    return scenarios


def has_code(document: Path) -> bool:
    return any(b.words[:1] == ("python",) or "scenario" in b.words for b in blocks_of(document))


def python(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if has_code(d)], ids=lambda document: document.name
)
def test_the_code_and_the_scenarios_of_a_document_run(
    document: Path, tmp_path: Path, warm: WarmPython
) -> None:
    blocks = blocks_of(document)
    script = tmp_path / f"{document.stem}.py"
    script.write_text(script_of(blocks, write_blocks(blocks, tmp_path)), encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if document.name == "README.md":
        python(str(script), cwd=tmp_path)
        return
    done = warm.run(script.read_text("utf-8"), script, folder=tmp_path, warnings="error")
    assert done.returncode == 0, done.stderr


def test_a_block_that_is_to_be_run_is_marked_as_one_of_the_known_kinds() -> None:
    for document in DOCUMENTS:
        for block in blocks_of(document):
            if block.words[1:] and not block.words[0].startswith("{"):
                is_file = block.words[0] == "python" and block.words[1].startswith("file=")
                place = f"{document.name}:{block.line - 1}"
                assert is_file or block.words == ("yaml", "scenario"), place


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_to_a_file_or_a_heading_leads_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", document.read_text("utf-8")):
        path, _, anchor = "".join(target).partition("#")
        if "://" in path:
            continue
        file = document.parent / path if path else document
        assert file.exists(), f"{document.name} links to {path}"
        assert not anchor or anchor in anchors_of(file), f"{document.name} links to #{anchor}"


def anchors_of(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_that_is_named_in_a_document_is_there() -> None:
    named = r"`((?:simfl|configs|tests|docs)/[\w./-]+\.(?:py|yaml|md|svg))`"
    for document in DOCUMENTS:
        for path in re.findall(named, document.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_the_readme_names_all_that_can_be_named(tmp_path: Path) -> None:
    registered = json.loads(python("-m", "simfl", "list", "--json", cwd=tmp_path))
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| [^|]+ \| (`.+`) \|$", readme, re.M)
    named = {kind: sorted(re.findall(r"`([\w-]+)`", names)) for kind, names in rows}
    assert named == {kind: sorted(names) for kind, names in registered.items()}


def test_the_mistake_in_the_readme_is_told_in_these_words(tmp_path: Path) -> None:
    blocks = blocks_of(ROOT / "README.md")
    scenario = next(block.text for block in blocks if block.words == ("yaml", "scenario"))
    (path := tmp_path / "first-steps.yaml").write_text(scenario.replace("momentum", "momentun"))
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    told = str(caught.value).replace(f"{tmp_path}/", "")
    assert f"$ simfl run first-steps.yaml\n{told}\n" in [block.text for block in blocks]


def test_the_readme_has_the_two_commands_that_do_all_the_set_up() -> None:
    create = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e"
    commands = [
        block.text.strip()
        for block in blocks_of(ROOT / "README.md")
        if block.text.startswith("python3 -m venv")
    ]
    assert commands == [
        f"{create} . && .venv/bin/simfl run configs/quickstart.yaml",
        f"{create} '.[test]' && .venv/bin/pytest -m 'not slow' -n 2",
    ]


def test_the_table_of_algorithms_has_all_of_them_with_their_keys() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    name = r"\[?\*\*`(.+?)`\*\*(?:\]\(gallery\.md#.+?\))?"
    rows = re.findall(rf"^\| {name} ?(.*?) \|", page, re.MULTILINE)
    listed = {name: set(re.findall(r"`(.+?)`", keys)) for name, keys in rows}
    ours = {n: c for n, c in Algorithm.registry.items() if c.__module__.startswith("simfl.")}
    assert listed == {name: {f.name for f in fields(kind)} for name, kind in ours.items()}
    assert [*listed] == sorted(listed)


def constants_of_the_source() -> str:
    """Return all strings of simfl, with what f-strings fill in left out: one line for each part."""
    parts = []
    for path in (ROOT / "simfl").rglob("*.py"):
        constants = (
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)
        )
        parts += [constant.value for constant in constants if isinstance(constant.value, str)]
    return "\n".join(parts)


def test_the_messages_of_the_troubleshooting_page_are_in_the_source() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    source = constants_of_the_source()
    parts = {part.strip() for message in messages for part in message.split("…")}
    assert len(messages) > 25
    assert not [part for part in parts if part not in source]


def test_the_lines_of_the_readme_that_are_algorithms_can_be_loaded() -> None:
    blocks = blocks_of(ROOT / "README.md")
    base = yaml.safe_load(next(b.text for b in blocks if b.words == ("yaml", "scenario")))
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| .*\(https://.+?\) \| `(.+)` \|$", readme, re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        build(load_scenario(merged(base, yaml.safe_load(row))))


def merged(base: Any, changes: Any) -> Any:
    """Return a mapping with another one's values, key by key."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: merged(base.get(key), value) for key, value in changes.items()}


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_python_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for cell in code:
        source = "".join(cell["source"])
        if not source.startswith("%"):  # else a magic, which only IPython reads
            compile(source, path.name, "exec")
