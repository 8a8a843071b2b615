"""Behind ``| head``, whose end ends commands that only print, but no training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm import CLOSED


@pytest.fixture
def closed() -> Iterator[int]:
    """The end of a pipe whose reader has left."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_run_goes_on_in_silence_and_ends_as_one_that_is_read(scenario, closed, warm):
    command = [sys.executable, "-m", "simfl", "run", scenario, "--backend", "inline", "--out"]
    unread = subprocess.run([*command, "a"], stdout=closed, stderr=subprocess.PIPE, timeout=60)
    assert (unread.returncode, unread.stderr) == (0, b"")
    summary = json.loads(Path("a/summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("done", 2)
    read = warm.simfl(*command[3:], "b")
    assert read.returncode == 0, read.stderr
    assert Path("a/weights.safetensors").read_bytes() == Path("b/weights.safetensors").read_bytes()


def test_a_run_needs_no_output(scenario):
    command = f"exec {sys.executable} -m simfl run {scenario} --backend inline --out a --quiet 1>&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(Path("a/summary.json").read_text())["status"] == "done"


def test_a_run_goes_on_if_its_warnings_are_not_read_either(tmp_path, closed):
    code = """
from simfl.observers import RunConsole
for console in (RunConsole(), RunConsole(stderr=True), RunConsole(stderr=True)):
    console.print("x")
    console.print("y")
open("went-on", "w").close()
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=closed, stderr=closed, timeout=60)
    assert done.returncode == 0
    assert Path("went-on").exists()


@pytest.mark.parametrize("arguments", [["schema"], ["list"], ["validate", "s.yaml"]])
def test_what_only_prints_ends_without_a_word(scenario, warm, arguments):
    assert warm.simfl(*arguments, stdout=CLOSED).stderr == ""
