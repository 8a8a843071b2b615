"""Progress: a bar that lives on a terminal, a text that lives in a notebook, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import starmap
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.record import RoundRecord

_SHOWN = ("train_loss", "loss", "accuracy")
_BAR_WIDTH = 30
_WEIGHT = 0.1
"""Of the latest round, in the moving average of how long a round takes."""


def make_progress(console: Console) -> Observer:
    """Return what suits a terminal, a notebook, or a file or pipe."""
    if console.is_jupyter:
        return ProgressNotebook()
    return ProgressBar(console) if console.is_terminal else ProgressLines(console)


class _Progress:
    """Where a run is: counted from what this process has done of it, not a resumed run's past."""

    def __init__(self, info: RunInfo, now: Callable[[], float] = time.perf_counter) -> None:
        self.info = info
        self.round = len(info.history)
        self._now = now
        self._began = now()
        self._num_done = 0
        self._latest_s = 0.0
        self._round_s = 0.0
        self._latest: dict[str, float | None] = {}
        self._num_left_out = 0

    def add(self, record: RoundRecord) -> None:
        # A round that was not evaluated shows the metrics of the last one that was.
        self._latest |= record.measures
        self.round = record.round
        self._num_left_out += record.dropped
        self._time_round()

    def _time_round(self) -> None:
        """Average how long rounds take: all alike at first, the latest ones later."""
        elapsed_s = self.elapsed_s
        # The second takes the first one's place, in which much is done for the first time.
        weight = max(_WEIGHT, 1 / max(self._num_done, 1))
        self._round_s += weight * (elapsed_s - self._latest_s - self._round_s)
        self._num_done += 1
        self._latest_s = elapsed_s

    @property
    def elapsed_s(self) -> float:
        return self._now() - self._began

    def place(self) -> str:
        return f"round {self.round}/{self.info.rounds}"

    def pace(self) -> str:
        """Return the rounds a second and the time left; nothing before there is a round."""
        if not self._num_done:
            return ""
        left_s = (self.info.rounds - self.round) * self._round_s
        since_s = self.elapsed_s - self._latest_s
        return f"{_rate(self._round_s)}  {_duration(max(0.0, left_s - since_s))} left"

    def numbers(self) -> str:
        numbers = self._latest
        shown = [name for name in _SHOWN if name in numbers]
        shown += [name for name in numbers if name.endswith("accuracy") and name not in shown]
        texts = [_number(name, numbers[name]) for name in shown]
        if self._num_left_out:
            texts.append(f"updates left out {self._num_left_out}")
        return "  ".join(texts)


class ProgressBar(Observer):
    """Shows a bar with the round, the pace and the time left, and beneath it how well it goes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Say what begins, and draw the bar."""
        self._progress = _Progress(info)
        self._console.print(_headline(info), highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=8)
        self._live.start()

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Move the bar, the next time it is drawn."""
        self._progress.add(record)

    def on_run_end(self, summary: Summary) -> None:
        """Leave the bar as it is, and sum up."""
        if self._live is not None:
            self._live.stop()
            closing = _closing(self._progress.info, summary)
            self._console.print(closing, highlight=False, markup=False, soft_wrap=True)

    def _draw(self) -> Group:
        progress = self._progress
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(progress.place(), no_wrap=True),
            Bar(total=progress.info.rounds, completed=progress.round, width=_BAR_WIDTH),
            Text(progress.pace(), no_wrap=True, overflow="ellipsis"),
        )
        return Group(line, Text(progress.numbers(), no_wrap=True, overflow="ellipsis"))


class ProgressNotebook(Observer):
    """Shows the same in a notebook, as text in one place; it needs no widgets."""

    _SECONDS_BETWEEN = 0.2

    def __init__(self) -> None:
        self._progress: _Progress | None = None
        self._display: Any = None

    def on_run_start(self, info: RunInfo) -> None:
        """Say what begins."""
        import IPython.display as notebook

        self._progress = _Progress(info)
        self._shown_s = 0.0
        display: Any = notebook.display
        self._display = display(self._bundle(_headline(info)), raw=True, display_id=True)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Show the round, unless something has just been shown."""
        assert self._progress is not None, "the run has not started"
        progress = self._progress
        progress.add(record)
        is_last = progress.round == progress.info.rounds
        if not is_last and progress.elapsed_s - self._shown_s < self._SECONDS_BETWEEN:
            return
        self._shown_s = progress.elapsed_s
        self._show(self._state())

    def on_run_end(self, summary: Summary) -> None:
        """Sum up."""
        if self._progress is not None:
            self._show(f"{self._state()}\n{_closing(self._progress.info, summary)}")

    def _state(self) -> str:
        assert self._progress is not None, "the run has not started"
        progress = self._progress
        filled = round(_BAR_WIDTH * progress.round / max(progress.info.rounds, 1))
        bar = "━" * filled + "┈" * (_BAR_WIDTH - filled)
        lines = [
            _headline(progress.info),
            f"{progress.place()} {bar} {progress.pace()}",
            progress.numbers(),
        ]
        return "\n".join(lines)

    def _show(self, text: str) -> None:
        self._display.update(self._bundle(text), raw=True)

    @staticmethod
    def _bundle(text: str) -> dict[str, str]:
        return {"text/plain": text}


class ProgressLines(Observer):
    """Prints a line every couple of seconds, ever fewer of them, and the first round and the last.

    One every 1 % of the time that has gone by, so that the log of a long run stays short.

    Args:
        console: where to.
        now: tells the time in seconds.
    """

    _SECONDS_BETWEEN = 2.0
    _SHARE_BETWEEN = 0.01

    def __init__(self, console: Console, now: Callable[[], float] = time.perf_counter) -> None:
        self._console = console
        self._now = now
        self._progress: _Progress | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Say what begins."""
        self._print(_headline(info))
        self._progress = _Progress(info, self._now)
        self._printed_s = 0.0

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Print the round, unless a line has just been printed."""
        assert self._progress is not None, "the run has not started"
        progress = self._progress
        progress.add(record)
        is_edge = progress.round in (len(progress.info.history) + 1, progress.info.rounds)
        elapsed_s = progress.elapsed_s
        pause_s = max(self._SECONDS_BETWEEN, self._SHARE_BETWEEN * elapsed_s)
        if not is_edge and elapsed_s - self._printed_s < pause_s:
            return
        self._printed_s = elapsed_s
        self._print(f"{progress.place()}  {progress.numbers()}  {progress.pace()}")

    def on_run_end(self, summary: Summary) -> None:
        """Sum up, if the run got as far as to start."""
        if self._progress is not None:
            self._print(_closing(self._progress.info, summary))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _headline(info: RunInfo) -> str:
    going_on = f", going on after round {len(info.history)}" if info.history else ""
    headline = (
        f"{info.name}: {_rounds(info.rounds)}, {info.cohort_size} of {info.population} clients "
        f"a round, {info.workers}{going_on}"
    )
    return f"{headline}\nRay's dashboard: http://{info.dashboard}" if info.dashboard else headline


def _rounds(number: int) -> str:
    return f"{number} round{'s' if number != 1 else ''}"


def _closing(info: RunInfo, summary: Summary) -> str:
    lasted = _duration(summary["wall_seconds"], digits=1)
    if before := summary.get("resumed_after_round", 0):  # the seconds are counted from then
        own = f"{_rounds(summary['rounds'] - before)} since round {before}"
        lines = [f"{summary['status']} after round {summary['rounds']}: {own} in {lasted}"]
    else:
        lines = [f"{summary['status']}: {_rounds(summary['rounds'])} in {lasted}"]
    if summary["seconds_to_first_round"] is not None:
        lines[0] += f", the first after {_duration(summary['seconds_to_first_round'], digits=1)}"
    if summary["final"]:
        lines.append("  ".join(starmap(_number, summary["final"].items())))
    if summary["dropped"]:
        lines.append(
            f"updates left out: {summary['dropped']}, not finite or of clients that failed"
        )
    return "\n".join([*lines, f"results in {info.out}"])


def _number(name: str, value: float | None) -> str:
    """Return a number with its name.

    >>> _number("accuracy", 0.5), _number("accuracy", None), _number("client_accuracy_count", 3)
    ('accuracy 0.5000', 'accuracy —', 'client_accuracy_count 3')
    """
    if value is None:
        return f"{name} —"
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4f}"


def _rate(round_s: float) -> str:
    """Return how fast rounds go that take so long.

    >>> _rate(0.003), _rate(0.04), _rate(2.5)
    ('333 rounds/s', '25.0 rounds/s', '2.5 s/round')
    """
    if round_s > 1:
        return f"{round_s:.1f} s/round"
    per_second = 1 / max(round_s, 1e-9)
    return f"{per_second:.{0 if per_second >= 100 else 1}f} rounds/s"


def _duration(seconds: float, *, digits: int = 0) -> str:
    """Return a time as a person says it.

    >>> _duration(41.2), _duration(41.2, digits=1), _duration(200), _duration(7500)
    ('41 s', '41.2 s', '3 min 20 s', '2 h 5 min')
    >>> _duration(59.96, digits=1), _duration(59.94, digits=1), _duration(59.6)
    ('1 min 0 s', '59.9 s', '1 min 0 s')
    """
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
