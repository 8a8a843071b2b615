"""What the command line needs before it knows what is asked for: nothing heavy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simfl.cli.main import app
from simfl.cli.options import complete_folder, complete_scenario

HEAVY = ("torch", "ray", "numpy", "yaml", "rich", "matplotlib", "sklearn")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("argument", "heavy"),
    [
        ("--help", (*HEAVY, "pydantic")),
        ("--version", (*HEAVY, "pydantic")),
        ("run --help", HEAVY),  # typer takes pydantic for the options of a command
    ],
)
def test_help_imports_nothing_heavy(argument, heavy):
    code = f"""
import sys
from simfl.cli.main import app
try:
    app({argument.split()!r})
except SystemExit as exit:
    assert exit.code == 0, exit.code
print("imported:", [name for name in {heavy!r} if name in sys.modules])
"""
    done = python(code)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_the_version_is_the_packages(simfl):
    from simfl import __version__

    assert simfl("--version").stdout == f"simfl {__version__}\n"


@pytest.mark.parametrize("width", [80, 120])
def test_help_lists_every_command_in_a_group_with_its_whole_summary(width):
    result = CliRunner().invoke(app, ["--help"], terminal_width=width)
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line]
    assert max(map(len, lines)) <= width
    text = " ".join(result.stdout.split())
    listed = {info.name: info for info in app.registered_commands}
    for name, info in listed.items():
        summary = " ".join(info.callback.__doc__.partition("\n\n")[0].split())
        assert f" {name} {summary}" in text
    groups = ["Run:", "Scenarios:", "Results:", "Reference:"]
    assert [line for line in lines if line in groups] == groups


def test_help_has_plain_names_for_arguments_and_values(simfl):
    for info in app.registered_commands:
        text = simfl(info.name, "--help").stdout
        assert not re.search(r"<\w|\{[A-Z]", text), text
    assert "Usage: simfl run [OPTIONS] FILE\n" in CliRunner().invoke(app, ["run", "-h"]).stdout


def test_names_of_scenarios_and_paths_are_completed(tmp_path):
    (tmp_path / "quick.yaml").touch()
    (tmp_path / "quick.txt").touch()
    (tmp_path / "quicker").mkdir()
    assert complete_scenario("quick") == ["quickstart", "quick.yaml", "quicker/"]
    assert complete_folder("quick") == ["quicker/"]
    words = {"_SIMFL_COMPLETE": "complete_bash", "COMP_WORDS": "simfl run quick", "COMP_CWORD": "2"}
    command = str(Path(sys.executable).with_name("simfl"))
    done = subprocess.run(
        [command], env=os.environ | words, capture_output=True, text=True, timeout=60
    )
    assert "quickstart" in done.stdout.split()


@pytest.mark.parametrize(
    "arguments", [["run"], ["fly"], ["run", "x", "--backend", "dask"], ["run", "x", "--sed", "1"]]
)
def test_a_mistake_of_usage_exits_with_2(simfl, arguments):
    result = simfl(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_a_request_to_terminate_exits_with_130():
    """A child sends SIGTERM to itself in the middle of a run."""
    code = """
import os, signal, sys, time, types
import simfl.cli.run as command
from simfl.cli.main import main

def run(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)

command.load = lambda file, overrides, **options: None
sys.modules["simfl.simulation"] = types.SimpleNamespace(run=run)
sys.argv = ["simfl", "run", "x.yaml"]
main()
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_interrupt_before_the_command_is_known_exits_with_130():
    code = """
import os, signal, typer.utils
from simfl.cli.main import main

signal.signal(signal.SIGINT, signal.default_int_handler)
typer.utils.get_type_hints = lambda _: os.kill(os.getpid(), signal.SIGINT)
main()
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_package_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "simfl", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("simfl ")


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")
@pytest.mark.parametrize(
    ("arguments", "before", "tunables"),
    [
        (["run", "no.yaml", "--backend", "inline"], None, "glibc.malloc.hugetlb=1"),
        (["resume", "no", "--backend=inline"], None, "glibc.malloc.hugetlb=1"),
        (["run", "no.yaml", "--backend", "inline"], "glibc.malloc.check=0", "glibc.malloc.check=0"),
        (["run", "no.yaml"], None, None),
        (["run", "no.yaml", "--out", "inline"], None, None),
    ],
    ids=["run", "resume", "set by the user", "on Ray", "another option"],
)
def test_a_run_in_this_process_is_one_with_huge_pages(arguments, before, tunables):
    """The process is the same one, and so are its arguments, including those of Python."""
    code = """
import atexit, os, sys, types
tunables = "GLIBC_TUNABLES"
atexit.register(lambda: print((os.getpid(), os.environ.get(tunables), sys.argv[1:], sys._xoptions)))
import simfl.cli.run as command
from simfl.cli.main import main
command.load = lambda *_, **__: sys.exit(2)
sys.modules["simfl.simulation"] = types.SimpleNamespace(resume=command.load)
main()
"""
    environment = {n: v for n, v in os.environ.items() if n != "GLIBC_TUNABLES"}
    if before is not None:
        environment["GLIBC_TUNABLES"] = before
    process = subprocess.Popen(
        [sys.executable, "-X", "simfl=1", "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    printed, _ = process.communicate(timeout=60)
    assert printed.strip() == str((process.pid, tunables, arguments, {"simfl": "1"}))
    assert process.returncode == 2


def test_a_program_that_calls_a_command_is_not_restarted(simfl, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execv", lambda *arguments: pytest.fail("the program was replaced"))
    assert simfl("run", "no.yaml", "--backend", "inline").exit_code == 2
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize("arguments", [("schema",), ("list", "--plugin", "own_plugin")])
def test_a_file_in_the_current_folder_is_not_taken_for_a_package(tmp_path, arguments):
    """As ``python -m simfl``, which puts the current folder before all others."""
    for name in ("torch", "numpy", "yaml", "typer", "pydantic", "sklearn"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was run')")
    (tmp_path / "own_plugin.py").write_text("")
    command = [sys.executable, "-m", "simfl", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
