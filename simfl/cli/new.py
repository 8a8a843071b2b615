"""``simfl new`` and ``simfl show``: a scenario to change, and a scenario as it is loaded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Annotated, Final

import typer

from simfl.cli.options import AsJson, Overrides, Trusted, complete_scenario, found, load
from simfl.cli.output import print_json, say
from simfl.errors import InputError

_SCENARIO: Final = "scenario.yaml"
_OWN_WORK: Final = "own_work.py"
_SCHEMA: Final = "scenario.schema.json"
_README: Final = """\
# {name}

From simfl's scenario `{source}`.

- `{scenario}` is what runs; `simfl list` shows all that it can name. Editors with YAML support
  complete and check it by `{schema}`, which `simfl schema` writes.
- `{own_work}` is Python of your own, which the scenario can name: `source: python` with
  `path: "own_work:two_moons"`, `kind: python` with `path: "own_work:small_network"`, and
  `plugins: [own_work]` for its optimizer module.

```sh
simfl validate {scenario}                      # check it, without running it
simfl data {scenario}                          # what its clients hold
simfl run {scenario} --out runs/first          # --backend inline: without Ray
simfl report runs/first                        # a page, with simfl[report]
simfl sweep {scenario} --over seed=0..4        # several runs, with simfl[tune]
```
"""


def new_scenario(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FILE",
            help="The scenario to begin with.",
            autocompletion=complete_scenario,
        ),
    ] = "quickstart",
) -> None:
    """Make a folder with a scenario to change.

    It holds scenario.yaml with the files that it names, its JSON Schema for editors, Python of
    your own in own_work.py, and a README.
    """
    from simfl.scenario import shipped_scenarios
    from simfl.scenario.json_schema import scenario_schema

    path = found(source)
    text, files = _own_files(path)
    files[_OWN_WORK] = shipped_scenarios()["custom"].with_name(_OWN_WORK)
    named = re.sub(r"^name: .*$", f"name: {json.dumps(folder.name)}", text, count=1, flags=re.M)
    readme = _README.format(
        name=folder.name, source=path.stem, scenario=_SCENARIO, schema=_SCHEMA, own_work=_OWN_WORK
    )
    written = {
        _SCENARIO: f"# yaml-language-server: $schema={_SCHEMA}\n{named}",
        _SCHEMA: json.dumps(scenario_schema(), indent=2) + "\n",
        "README.md": readme,
    }
    try:
        folder.mkdir(parents=True)
        for name, content in written.items():
            (folder / name).write_text(content, encoding="utf-8")
        for name, file in files.items():
            shutil.copyfile(file, folder / name)
    except FileExistsError:
        raise InputError(f"{folder} exists; give the name of a new folder") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot make {folder}: {error}; give another name") from None
    say(folder / _SCENARIO, is_exact=True)


def _own_files(path: Path) -> tuple[str, dict[str, Path]]:
    """Return a scenario's text, and the files beside it that it names, which it then has here."""
    from simfl.scenario.reading import read_document

    read_document(path)  # it is YAML, and not large
    text = path.read_text(encoding="utf-8-sig")
    modules = path.parent.glob("*.py")
    files = {file.name: file for file in modules if re.search(rf"\b{file.stem}\b", text)}
    for written in re.findall(r"path: (\S+\.\w+)$", text, flags=re.M):
        file = path.parent / written
        if file.is_file():
            files[file.name] = file
            text = text.replace(f"path: {written}", f"path: {file.name}")
    return text, files


def show_scenario(
    name: Annotated[
        str,
        typer.Argument(
            metavar="FILE|RUN",
            help="A scenario file, the name of a shipped one, or the folder of a run.",
            autocompletion=complete_scenario,
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    trust: Trusted = "all",
    as_json: AsJson = False,
) -> None:
    """Show a scenario as it is loaded: every key, with defaults written out."""
    from simfl.record import SCENARIO_FILE

    run = Path(name, SCENARIO_FILE)
    scenario = load(str(run) if run.is_file() else name, overrides, trust=trust)
    if as_json:
        print_json(scenario.to_dict())
    else:
        say(scenario.to_yaml().rstrip(), is_exact=True)
