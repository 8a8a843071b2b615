"""Observer: receives the events of a run, and the table of a round's clients.

Shapes: N clients of the cohort, M clients that were evaluated.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from simfl.component import Component
from simfl.errors import ConfigError
from simfl.messages import NO_REPORTS, ClientReports, FloatColumn, IntColumn, RoundTrace
from simfl.record import GLOBAL, RoundRecord

Summary: TypeAlias = "dict[str, Any]"
"""The whole run as plain data: ``summary.json``."""

LOG_FILE = "observers.log"
"""The tracebacks of failed observers, in the run's folder."""

_AT_THE_END = "at the end"


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts."""

    name: str
    rounds: int
    """The number of rounds of the whole run."""
    population: int
    cohort_size: int
    out: Path
    """The run's folder."""
    workers: str
    """Where clients are trained, in words: ``2 client actors``."""
    num_actors: int = 1
    """The number of actors that train clients."""
    backend: str = "inline"
    """``ray`` or ``inline``."""
    run_id: str = ""
    """A unique id; a resumed run keeps it."""
    scenario: Mapping[str, Any] = field(default_factory=dict)
    """As plain data, including defaults."""
    dashboard: str | None = None
    """The address of Ray's dashboard, if it runs."""
    history: tuple[RoundRecord, ...] = ()
    """The rounds before a resumed run was stopped."""


class Observer(Component, kind="observer"):
    """Does nothing at each event; subclasses override what they need.

    An observer for scenarios is a dataclass, whose fields are its config; each run has its
    own instance, which may set further attributes. Training waits for observers, so they should be
    quick: no loops over clients.
    """

    is_frozen: ClassVar[bool] = False

    def prepare(self) -> None:
        """Check what the observer needs, before the run starts; an exception ends the run.

        Raises:
            MissingExtraError: if a package that it needs is not installed.
        """

    def on_run_start(self, info: RunInfo) -> None:
        """Receive the start of a run, when everything is set up."""

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Receive a round, after its evaluation and before it is saved."""

    def flush(self) -> None:
        """Write all rounds to permanent storage, before a checkpoint.

        A resumed run does not repeat the calls for the rounds before its checkpoint.
        """

    def on_run_end(self, summary: Summary) -> None:
        """Receive the end of a run that was started, however it ends."""

    def lost(self) -> str | None:
        """Return what could not be written, for the summary; None if everything was."""
        return None


Callback: TypeAlias = "Observer | Callable[[RoundRecord], object]"
"""An observer, or a function that is called with each round's record."""


def as_observer(callback: Callback) -> Observer:
    """Return the observer that a callback is, or that calls it.

    Raises:
        ConfigError: if it is neither an observer nor a function.
    """
    if isinstance(callback, Observer):
        return callback
    if not callable(callback):
        raise ConfigError(
            f"callbacks: {callback!r} is neither a function of a round's record nor an Observer"
        )
    return _Calling(callback)


class _Calling(Observer):
    """Calls a function after each round."""

    def __init__(self, function: Callable[[RoundRecord], object]) -> None:
        self._function = function

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        self._function(record)


class FailSafeObserver(Observer):
    """Forwards events to an observer until it raises an exception, after which the run continues.

    Args:
        observer: receives the events.
        label: what it is called in messages.
        out: the run's folder.
        notify: called with a message when the observer fails.
    """

    def __init__(
        self, observer: Observer, label: str, *, out: Path, notify: Callable[[str], None]
    ) -> None:
        self.observer = observer
        self.label = label
        self._log = out / LOG_FILE
        self._notify = notify
        self._failure: str | None = None
        self._has_begun = False

    def on_run_start(self, info: RunInfo) -> None:
        """Forward it."""
        self._has_begun = True
        self._try(lambda: self.observer.on_run_start(info), when="at the start")

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Forward it."""
        self._try(lambda: self.observer.on_round(record, clients), when=f"in round {record.round}")

    def flush(self) -> None:
        """Forward it."""
        self._try(self.observer.flush, when="at a checkpoint")

    def on_run_end(self, summary: Summary) -> None:
        """Forward it, if the run was started."""
        if self._has_begun:
            self.sum_up(summary)

    def sum_up(self, summary: Summary) -> None:
        """Forward the end of a run, even of one that could not start."""
        self._try(lambda: self.observer.on_run_end(summary), when=_AT_THE_END)

    def lost(self) -> str | None:
        """Return when it failed and why, or what the observer itself reports as lost."""
        return self._failure or self.observer.lost()

    def _try(self, call: Callable[[], None], *, when: str) -> None:
        if self._failure is not None:
            return
        try:
            call()
        except Exception as error:
            message = " ".join(str(error).split())
            self._failure = f"failed {when}: {type(error).__name__}: {message}"
            disabled = "; it is disabled from now on, and the run continues"
            self._notify(
                f"{self.label} {self._failure}{'' if when == _AT_THE_END else disabled}"
                f"{self._log_traceback(when)}"
            )

    def _log_traceback(self, when: str) -> str:
        """Write the traceback of the current exception; return where it is, for the message."""
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{self.label} {when}\n{traceback.format_exc()}\n")
        except OSError:
            return ""
        return f" (its traceback is in {self._log})"


@dataclass(frozen=True)
class ClientEvaluation:
    """The broadcast weights, or each client's own, evaluated on what each client holds."""

    client: IntColumn
    """[M] ids."""
    weights: Mapping[str, FloatColumn]
    """[M] the number or total weight of each client's examples, by metric."""
    metrics: Mapping[str, FloatColumn]
    """[M] each client's mean, by metric: ``loss`` and what the scenario measures. NaN where the
    weight is 0: there is no value."""
    is_new: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    """[M] whether each is one of ``evaluation.new_clients``, which never train; None: none is."""
    model: str = GLOBAL
    """Which weights: the broadcast ones (GLOBAL), the client's own (PERSONAL), or those that it
    has after ``evaluation.personal_steps`` (TUNED), all of ``simfl.record``."""
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """[M, ...] of metrics that are arrays, by metric; NaN where there is no value."""

    def of_clients(self, *, new: bool) -> ClientEvaluation:
        """Return the rows of the new clients, or of all others."""
        is_new = np.zeros(len(self), dtype=bool) if self.is_new is None else self.is_new
        found = np.flatnonzero(is_new == new)
        return replace(
            self,
            client=self.client[found],
            weights={name: column[found] for name, column in self.weights.items()},
            metrics={name: column[found] for name, column in self.metrics.items()},
            arrays={name: values[found] for name, values in self.arrays.items()},
            is_new=is_new[found],
        )

    @property
    def weight(self) -> FloatColumn:
        """[M] the number or total weight of the examples that each was evaluated on."""
        return self.weights["loss"]

    def __len__(self) -> int:
        return len(self.client)


@dataclass(frozen=True)
class ClientTable(ClientReports):
    """What the clients of a round did, in the order of the cohort, and where.

    The reports of all chunks, one after the other, and columns that vary between runs.
    """

    round: int
    actor: IntColumn
    """[N] the actor that trained each client: an index of ``actors``."""
    actors: tuple[str, ...]
    """The actors that trained: ``client-3``, or ``inline`` and ``inline-1``; sorted."""
    retries: IntColumn
    """[N] how often the client's chunk was lost with an actor and trained again."""
    evaluation: ClientEvaluation | None = None
    """Of all clients of the population; None after a round without their evaluation."""
    own_evaluations: tuple[ClientEvaluation, ...] = ()
    """The same of each client's own models: PERSONAL if clients have weights of their own, TUNED
    with ``evaluation.personal_steps``."""


def client_table(
    round: int, trace: RoundTrace, evaluations: Sequence[ClientEvaluation] = ()
) -> ClientTable:
    """Concatenate the columns of a round's chunks.

    Args:
        round: which round.
        trace: has the chunks.
        evaluations: of the clients: GLOBAL, then their own models; empty: none was due.
    """
    reports = [chunk.report.clients for chunk in trace.chunks] or [NO_REPORTS]
    sizes = np.array([len(chunk.report.clients) for chunk in trace.chunks], np.int64)
    actors = sorted({chunk.actor for chunk in trace.chunks})
    columns: dict[str, Any] = {
        column.name: np.concatenate([getattr(report, column.name) for report in reports])
        for column in fields(ClientReports)
        if column.name != "dropped"
    }
    return ClientTable(
        **columns,
        dropped={client: why for report in reports for client, why in report.dropped.items()},
        round=round,
        actor=_repeat([actors.index(chunk.actor) for chunk in trace.chunks], sizes),
        actors=tuple(actors),
        retries=_repeat([chunk.retries for chunk in trace.chunks], sizes),
        evaluation=evaluations[0] if evaluations else None,
        own_evaluations=tuple(evaluations[1:]),
    )


def _repeat(numbers: list[int], times: IntColumn) -> IntColumn:
    return np.repeat(np.array(numbers, np.int64), times)
