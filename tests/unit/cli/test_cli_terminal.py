"""What a terminal is sent: names are shown there, and obeyed nowhere."""

from __future__ import annotations

import os
import pty
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from warm import WarmPython

NAME = "a\x1b]0;owned\x07\x9b31m"
"""Would set the terminal's title, and its colour."""


def on_terminal(warm: WarmPython, *arguments: str) -> bytes:
    """Return all that a command sends to the terminal that it runs on."""
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(warm.simfl, *arguments, terminal=os.ttyname(theirs))
        ended.add_done_callback(lambda _: os.close(theirs))
        sent = b""
        while chunk := _read(ours):
            sent += chunk
    os.close(ours)
    return sent


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # on Linux, when the other end is closed
        return b""


@pytest.mark.parametrize(
    "command",
    [
        ("validate", f"{NAME}.yaml", "--no-data"),
        ("validate", f"{NAME}/bad.yaml", f"{NAME}/nothing.yaml", "--no-data"),
        ("run", f"{NAME}.yaml", "--backend", "inline", "--out", f"{NAME}/run"),
        ("run", f"{NAME}.yaml", "--backend", "inline", "--quiet", "--out", f"{NAME}/run"),
        ("ls", NAME),
        ("ls", NAME, "--json"),
        ("report", f"{NAME}/old", "--no-data", "--format", "md"),
        ("report", f"{NAME}/old", "--no-data", "--format", "png"),
        ("data", f"{NAME}.yaml", "--png", f"{NAME}/x.png"),
    ],
    ids=lambda command: " ".join(part for part in command if NAME not in part),
)
def test_names_of_files_are_shown_on_a_terminal_and_not_obeyed(command, scenario, warm):
    Path(f"{NAME}.yaml").write_text(Path(scenario).read_text())
    Path(NAME, "old").mkdir(parents=True)
    Path(NAME, "old", "scenario.yaml").write_text(Path(scenario).read_text())
    Path(NAME, "bad.yaml").write_text("rounds: x\n")
    sent = on_terminal(warm, *command)
    assert b"owned" in sent
    assert b"\x1b]0;" not in sent
    assert b"\x07" not in sent
    assert "\x9b".encode() not in sent
    assert b"Warning" not in sent
