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

import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from warm import WarmPython

from simfl.algorithms import Algorithm
from simfl.errors import ScenarioError
from simfl.scenario import load_scenario

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

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
        f"{create} '.[test]' && .venv/bin/pytest -m 'not slow'",
    ]


def test_the_table_of_algorithms_has_all_of_them_with_their_keys() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*`(.+?)`\*\* ?(.*?) \|", page, re.MULTILINE)
    listed = {name: set(re.findall(r"`(.+?)`", keys)) for name, keys in rows}
    ours = {n: c for n, c in Algorithm.registry.items() if c.__module__.startswith("simfl.")}
    assert listed == {name: {f.name for f in fields(kind)} for name, kind in ours.items()}
    assert [*listed] == sorted(listed)
