"""The progress of a run: a bar on a terminal, a text in a notebook, or plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import starmap
from typing import Any, ClassVar

from rich.console import Console, Group

from simfl.observers.console import LiveBlock, bar, clipped, grid, say
from simfl.observers.observer import ClientTable, Observer, RunInfo, Summary
from simfl.record import RoundRecord

_SHOWN = ("train_loss", "loss", "accuracy")
_SPREAD = ("_by_examples", "_std", "_count", "_best")
"""What describes the clients' values of a metric besides their mean and the worst."""
_BAR_WIDTH = 30
_WEIGHT = 0.1
"""The latest round's, in the moving average of the seconds per round."""


def make_progress(console: Console, *, names_folder: bool = True) -> Observer:
    """Return the display that suits a terminal, a notebook, or a file or pipe.

    Args:
        console: where it is shown.
        names_folder: whether it ends with where the results are.
    """
    view: _View
    if console.is_jupyter:
        view = ProgressNotebook()
    else:
        view = ProgressBar(console) if console.is_terminal else ProgressLines(console)
    view.names_folder = names_folder
    return view


class _Progress:
    """How far a run is; its pace is that of this process, without a resumed run's past."""

    def __init__(self, info: RunInfo, now: Callable[[], float] = time.perf_counter) -> None:
        self.info = info
        self.round = len(info.history)
        self._now = now
        self._began = now()
        self._num_done = 0
        self._latest_s = 0.0
        self._round_s = 0.0
        self._latest: dict[str, float | None] = {}
        self._num_dropped = 0

    def add(self, record: RoundRecord) -> None:
        # A round that was not evaluated shows the metrics of the last one that was.
        self._latest |= record.measures
        self.round = record.round
        self._num_dropped += record.dropped
        self._time_round()

    def _time_round(self) -> None:
        """Update the seconds per round: the mean of the first ones, and then a moving average."""
        elapsed_s = self.elapsed_s
        # The second round replaces the first one, which includes one-time work.
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
        """Return the rounds per second and the time left; nothing before the first round ends."""
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
        if self._num_dropped:
            texts.append(f"updates dropped {self._num_dropped}")
        return "  ".join(texts)


class _View(Observer):
    """Follows a run's progress, and prints a headline and a summary.

    Args:
        console: where to show it.
        now: returns the time in seconds.
    """

    SECONDS_BETWEEN: ClassVar[float] = 0.0
    """The shortest time between two updates."""
    FRACTION_BETWEEN: ClassVar[float] = 0.0
    """The same, as a fraction of the time since the start."""

    names_folder = True
    """Whether it ends with the name of the run's folder."""

    def __init__(self, console: Console, now: Callable[[], float] = time.perf_counter) -> None:
        self._console = console
        self._now = now
        self._progress: _Progress | None = None
        self._shown_s = 0.0

    def on_run_start(self, info: RunInfo) -> None:
        """Show the headline."""
        self._progress = _Progress(info, self._now)
        self._begin(self._progress)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Show the round, unless the last update was just before; the last round always."""
        progress = self._progress
        assert progress is not None, "the run has not started"
        progress.add(record)
        elapsed_s = progress.elapsed_s
        pause_s = max(self.SECONDS_BETWEEN, self.FRACTION_BETWEEN * elapsed_s)
        is_edge = progress.round in (len(progress.info.history) + 1, progress.info.rounds)
        if is_edge or elapsed_s - self._shown_s >= pause_s:
            self._shown_s = elapsed_s
            self._update(progress)

    def on_run_end(self, summary: Summary) -> None:
        """Show the summary, unless the run never started."""
        if self._progress is not None:
            info = self._progress.info
            where = [f"results in {info.out}"] if self.names_folder else []
            self._end(self._progress, "\n".join([*_closing(summary), *where]))

    def _begin(self, progress: _Progress) -> None:
        say(self._console, _headline(progress.info))

    def _update(self, progress: _Progress) -> None:
        """Do nothing."""

    def _end(self, progress: _Progress, closing: str) -> None:
        say(self._console, closing)


class ProgressBar(_View):
    """Shows a bar with the round, the pace and the time left, and the metrics beneath it."""

    def _begin(self, progress: _Progress) -> None:
        super()._begin(progress)

        def draw() -> Group:
            full = bar(progress.round, progress.info.rounds, width=_BAR_WIDTH)
            line = grid([(clipped(progress.place()), full, clipped(progress.pace()))])
            return Group(line, clipped(progress.numbers()))

        self._block = LiveBlock(self._console, draw, per_second=8)

    def _end(self, progress: _Progress, closing: str) -> None:
        self._block.stop()
        super()._end(progress, closing)


class ProgressNotebook(_View):
    """Shows the same in a notebook, as a text that is updated in place; it needs no widgets."""

    SECONDS_BETWEEN = 0.2

    def __init__(self) -> None:
        super().__init__(Console())

    def _begin(self, progress: _Progress) -> None:
        import IPython.display as notebook

        display: Any = notebook.display
        headline = {"text/plain": _headline(progress.info)}
        self._display: Any = display(headline, raw=True, display_id=True)

    def _update(self, progress: _Progress) -> None:
        self._show(progress)

    def _end(self, progress: _Progress, closing: str) -> None:
        self._show(progress, closing)

    def _show(self, progress: _Progress, *closing: str) -> None:
        filled = round(_BAR_WIDTH * progress.round / max(progress.info.rounds, 1))
        drawn = "━" * filled + "┈" * (_BAR_WIDTH - filled)
        state = f"{progress.place()} {drawn} {progress.pace()}"
        lines = [_headline(progress.info), state, progress.numbers(), *closing]
        self._display.update({"text/plain": "\n".join(lines)}, raw=True)


class ProgressLines(_View):
    """Prints a line every two seconds, and later every 1 % of the time since the start.

    So the log of a long run stays short. The first round and the last one always have a line.
    """

    SECONDS_BETWEEN = 2.0
    FRACTION_BETWEEN = 0.01

    def _update(self, progress: _Progress) -> None:
        say(self._console, f"{progress.place()}  {progress.numbers()}  {progress.pace()}")


def _headline(info: RunInfo) -> str:
    resumed = f", continuing after round {len(info.history)}" if info.history else ""
    headline = (
        f"{info.name}: {_rounds(info.rounds)}, {info.cohort_size} of {info.population} clients "
        f"a round, {info.workers}{resumed}"
    )
    return f"{headline}\nRay's dashboard: http://{info.dashboard}" if info.dashboard else headline


def _without_spread(final: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the final numbers without those that describe clients besides mean and worst."""

    def is_spread(name: str) -> bool:
        return any(name.endswith(part) and name.removesuffix(part) in final for part in _SPREAD)

    return {name: number for name, number in final.items() if not is_spread(name)}


def _rounds(number: int) -> str:
    return f"{number} round{'s' if number != 1 else ''}"


def _closing(summary: Summary) -> list[str]:
    lasted = _duration(summary["wall_seconds"], digits=1)
    if before := summary.get("resumed_after_round", 0):  # the seconds count from there
        own = f"{_rounds(summary['rounds'] - before)} since round {before}"
        lines = [f"{summary['status']} after round {summary['rounds']}: {own} in {lasted}"]
    else:
        lines = [f"{summary['status']}: {_rounds(summary['rounds'])} in {lasted}"]
    if summary["seconds_to_first_round"] is not None:
        lines[0] += f", the first after {_duration(summary['seconds_to_first_round'], digits=1)}"
    if summary["final"]:
        lines.append("  ".join(starmap(_number, _without_spread(summary["final"]).items())))
    if summary["dropped"]:
        lines.append(
            f"updates dropped: {summary['dropped']}, not finite, or of clients that failed or were "
            "stragglers"
        )
    return lines


def _number(name: str, value: float | None) -> str:
    """Return a number with its name.

    >>> _number("accuracy", 0.5), _number("accuracy", None), _number("client_accuracy_count", 3)
    ('accuracy 0.5000', 'accuracy —', 'client_accuracy_count 3')
    """
    if value is None:
        return f"{name} —"
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4f}"


def _rate(round_s: float) -> str:
    """Return the pace of rounds that take this long.

    >>> _rate(0.003), _rate(0.04), _rate(2.5)
    ('333 rounds/s', '25.0 rounds/s', '2.5 s/round')
    """
    if round_s > 1:
        return f"{round_s:.1f} s/round"
    per_second = 1 / max(round_s, 1e-9)
    return f"{per_second:.{0 if per_second >= 100 else 1}f} rounds/s"


def _duration(seconds: float, *, digits: int = 0) -> str:
    """Return a time in the units that suit it.

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
