"""Observer: reads a run as it goes, and changes nothing about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

from simfl.component import Component
from simfl.errors import ConfigError
from simfl.observers.clients import ClientTable

RoundRecord: TypeAlias = "dict[str, Any]"
"""One round as plain data: a line of ``metrics.jsonl``. A number that is missing or not finite is
None.

What ``reproducible`` returns of it is the same bits on every backend.
"""

Summary: TypeAlias = "dict[str, Any]"
"""The whole run as plain data: ``summary.json``."""


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts."""

    name: str
    rounds: int
    """How many there will be."""
    population: int
    cohort_size: int
    out: Path
    """The run's folder."""
    workers: str
    """Where clients are trained, in words: ``2 client actors``."""
    num_actors: int = 1
    """How many train clients at once."""
    backend: str = "inline"
    """``ray`` or ``inline``."""
    run_id: str = ""
    """Names this run among all others; a resumed run keeps it."""
    scenario: Mapping[str, Any] = field(default_factory=dict)
    """As plain data, defaults written out."""
    dashboard: str | None = None
    """The address of Ray's dashboard, where there is one."""
    history: tuple[RoundRecord, ...] = ()
    """The rounds that a resumed run has behind it."""


class Observer(Component, kind="observer"):
    """Does nothing at each event; subclasses override what they need.

    One that a scenario can name is a dataclass, whose fields are its config; each run makes one of
    its own, which may set further attributes. The training waits for an observer, so it is quick:
    nothing for each client in a loop.
    """

    is_frozen: ClassVar[bool] = False

    def prepare(self) -> None:
        """Is called before anything is started; what it raises ends the run.

        Raises:
            MissingExtraError: if a package that it needs is not installed.
        """

    def on_run_start(self, info: RunInfo) -> None:
        """Is called once everything has been set up."""

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Is called after each round, evaluation included, and before it is saved."""

    def flush(self) -> None:
        """Is called before a checkpoint: a resumed run is not told of the rounds before it again.

        So what has been told is to be where it lasts.
        """

    def on_run_end(self, summary: Summary) -> None:
        """Is called at the end of a run that has started, however it ends."""

    def lost(self) -> str | None:
        """Say what could not be kept, for the summary; None if all was."""
        return None


def reproducible(record: RoundRecord) -> RoundRecord:
    """Return what is the same bits on every backend: not how long it took, by whom, what was lost.

    >>> reproducible({"round": 1, "seconds": 0.1, "seconds_train": 0.1, "retries": 0})
    {'round': 1}
    """
    return {
        name: value
        for name, value in record.items()
        if not name.startswith("seconds") and name not in ("retries", "actors")
    }


RECORD_FIELDS: Final = (
    "round",
    "train_loss",
    "clients",
    "dropped",
    "retries",
    "actors",
    "examples",
    "examples_seen",
    "steps",
    "sent_bytes",
    "received_bytes",
    "aux_bytes",
    "delta_norm",
)
"""The fields of a round's record besides its seconds and metrics."""

OVER_CLIENTS: Final = ("", "_by_examples", "_std", "_worst", "_count")
"""The suffixes of ``client_<metric>`` in a record; the first is the mean over clients."""

_BESIDE_METRICS: Final = ("client", "weight")
"""Columns of ``evaluations.parquet``."""


def require_own_names(metrics: Iterable[str]) -> None:
    """Check that the names of metrics, and of their means over clients, are unique.

    Args:
        metrics: their names, besides ``loss``.

    Raises:
        ConfigError: naming the first one that is not unique.
    """
    taken = dict.fromkeys(["loss", *(f"client_loss{end}" for end in OVER_CLIENTS)], "loss")
    for metric in metrics:
        names = [metric, *(f"client_{metric}{end}" for end in OVER_CLIENTS)]
        used = next((name for name in names if name in taken), None)
        if metric in (*RECORD_FIELDS, *_BESIDE_METRICS) or metric.startswith("seconds"):
            whose = f"{metric!r} is a field of the records"
        elif used is None:
            taken |= dict.fromkeys(names, metric)
            continue
        elif taken[used] == "loss":
            whose = f"{used!r} is derived from the loss"
        else:
            raise ConfigError(
                f"the metrics {taken[used]!r} and {metric!r} both give a number the name "
                f"{used!r}; rename one that is your own"
            )
        raise ConfigError(f"a metric has the name {metric!r}, but {whose}; rename it")


def numbers(record: RoundRecord) -> dict[str, float]:
    """Return the numbers for a tracker: those that exist, without the round itself.

    >>> numbers({"round": 1, "seconds": 0.1, "accuracy": None})
    {'seconds': 0.1}
    """
    return {name: value for name, value in record.items() if name != "round" and value is not None}


def measured(record: RoundRecord) -> dict[str, float | None]:
    """Return how well the weights do: the training loss, and all that was evaluated.

    >>> measured({"round": 1, "seconds": 0.1, "clients": 3, "train_loss": 0.5, "accuracy": 0.9})
    {'train_loss': 0.5, 'accuracy': 0.9}
    """
    return {
        name: value
        for name, value in record.items()
        if name == "train_loss" or not (name in RECORD_FIELDS or name.startswith("seconds"))
    }
