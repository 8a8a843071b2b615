"""Progress in the terminal: a bar that lives, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RoundRecord, RunInfo, Summary

__all__ = ["ProgressBar", "ProgressLines", "make_progress"]

_SECONDS_BETWEEN_LINES = 2.0
_SHOWN = ("train_loss", "loss", "accuracy")


def make_progress(console: Console) -> Observer:
    """Return a bar for a terminal or a notebook, and plain lines for anything else."""
    lives = console.is_terminal or console.is_jupyter
    return ProgressBar(console) if lives else ProgressLines(console)


class ProgressBar(Observer):
    """Shows round, loss, accuracy, rounds a second and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Say what begins, and draw the bar."""
        self._info = info
        self._console.print(_headline(info), highlight=False)
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task(
            "round", total=info.rounds, completed=len(info.history), numbers="", pace=""
        )
        self._latest: RoundRecord = {}
        self._started = time.perf_counter()
        self._progress.start()

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Move the bar."""
        assert self._progress is not None, "the run has not started"
        # A round that was not evaluated shows the metrics of the last one that was.
        self._latest |= record
        done = record["round"] - len(self._info.history)
        pace = done / (time.perf_counter() - self._started)
        self._progress.update(
            self._task,
            completed=record["round"],
            numbers=_numbers(self._latest),
            pace=f"{pace:.1f} rounds/s",
        )

    def on_run_end(self, summary: Summary) -> None:
        """Leave the bar as it is, and sum up."""
        if self._progress is not None:
            self._progress.stop()
            self._console.print(_closing(self._info, summary), highlight=False, soft_wrap=True)


class ProgressLines(Observer):
    """Prints a line every couple of seconds, and always the first round and the last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._info: RunInfo | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Say what begins."""
        self._print(_headline(info))
        self._info = info
        self._started = self._printed = time.perf_counter()

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Print the round, unless a line has just been printed."""
        assert self._info is not None, "the run has not started"
        now, number = time.perf_counter(), record["round"]
        done = number - len(self._info.history)
        is_edge = done == 1 or number == self._info.rounds
        if not is_edge and now - self._printed < _SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        pace = done / (now - self._started)
        left = (self._info.rounds - number) / pace
        self._print(
            f"round {number}/{self._info.rounds}  {_numbers(record)}"
            f"  {pace:.1f} rounds/s  {left:.0f} s left"
        )

    def on_run_end(self, summary: Summary) -> None:
        """Sum up, if the run got as far as to start."""
        if self._info is not None:
            self._print(_closing(self._info, summary))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _headline(info: RunInfo) -> str:
    going_on = f", going on after round {len(info.history)}" if info.history else ""
    return (
        f"{info.name}: {info.rounds} rounds, {info.cohort_size} of {info.population} clients "
        f"a round, {info.workers}{going_on}"
    )


def _closing(info: RunInfo, summary: Summary) -> str:
    rounds, seconds = summary["rounds"], summary["wall_seconds"]
    lines = [f"{summary['status']}: {rounds} rounds in {seconds:.1f} s"]
    if summary["seconds_to_first_round"] is not None:
        lines[0] += f", the first after {summary['seconds_to_first_round']:.1f} s"
    if summary["final"]:
        lines.append("  ".join(f"{name} {value:.4f}" for name, value in summary["final"].items()))
    if summary["dropped"]:
        lines.append(f"{summary['dropped']} updates were dropped: not finite")
    return "\n".join([*lines, f"results in {info.out}"])


def _numbers(record: dict[str, Any]) -> str:
    shown = [name for name in _SHOWN if name in record]
    shown += [name for name in record if name.endswith("accuracy") and name not in shown]
    return "  ".join(f"{name} {record[name]:.4f}" for name in shown)
