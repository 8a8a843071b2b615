"""The names of what a run writes: its files, and the numbers of a round's record.

Imports neither torch nor numpy: whatever reads runs' folders uses it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final, TypeAlias

from simfl.errors import ConfigError

__all__ = [
    "BEST_FILE",
    "CLIENTS_FILE",
    "EVALUATIONS_FILE",
    "EVALUATION_KEYS",
    "GLOBAL",
    "GLOBAL_TRAIN_LOSS",
    "METRICS_FILE",
    "PERSONAL",
    "PROVENANCE_FILE",
    "RUN_FILE",
    "SCENARIO_FILE",
    "SUMMARY_FILE",
    "TUNED",
    "VERSIONS_FILE",
    "WEIGHTS_FILE",
    "ClientMetric",
    "Number",
    "RoundRecord",
    "client_keys",
    "evaluated_as",
    "evaluations",
    "is_metric",
    "is_reproducible",
    "record_units",
    "require_own_names",
    "split_metrics",
]

Number: TypeAlias = float | None
"""None: missing, undefined or not finite."""

SCENARIO_FILE: Final = "scenario.yaml"
RUN_FILE: Final = "run.json"
VERSIONS_FILE: Final = "versions.json"
PROVENANCE_FILE: Final = "provenance.json"
METRICS_FILE: Final = "metrics.jsonl"
CLIENTS_FILE: Final = "clients.parquet"
EVALUATIONS_FILE: Final = "evaluations.parquet"
SUMMARY_FILE: Final = "summary.json"
WEIGHTS_FILE: Final = "weights.safetensors"
BEST_FILE: Final = "best.safetensors"

EVALUATION_KEYS: Final = ("round", "client", "weight", "model", "new")
"""Columns of ``evaluations.parquet`` besides the metrics; the last two only where rows differ."""

GLOBAL_TRAIN_LOSS: Final = "global_train_loss"
"""The loss over the training examples of all clients, with ``evaluation.train_loss``."""

GLOBAL: Final = "global"
"""Clients are evaluated with the server's weights."""
PERSONAL: Final = "personal"
"""Clients are evaluated with their own weights."""
TUNED: Final = "tuned"
"""Clients are evaluated after training for ``evaluation.personal_steps``."""

_PHASE: Final = "seconds_"
_CLIENT: Final = "client_"


@dataclass(frozen=True)
class ClientMetric:
    """A metric over those clients that have a value."""

    mean: Number = None
    """Unweighted."""
    by_examples: Number = None
    """The mean weighted by examples, or by the metric's own weights."""
    std: Number = None
    worst: Number = None
    """The mean over the worst tenth of the clients."""
    count: int = 0
    """How many clients have a value."""
    best: Number = None
    """The mean over the best tenth of the clients."""


_STATISTICS: Final = {
    statistic.name: "" if statistic.name == "mean" else f"_{statistic.name}"
    for statistic in fields(ClientMetric)
}
"""Statistic -> the end of its key, ``client_<metric><end>``."""


def client_keys(metric: str) -> dict[str, str]:
    """Return the key of each statistic of a metric over clients.

    >>> client_keys("loss")["mean"], client_keys("loss")["worst"]
    ('client_loss', 'client_loss_worst')
    """
    return {statistic: f"{_CLIENT}{metric}{end}" for statistic, end in _STATISTICS.items()}


def evaluated_as(metric: str, model: str = GLOBAL, is_new: bool = False) -> str:
    """Return the name of a metric over clients, from which ``client_keys`` makes keys.

    Args:
        metric: ``loss`` or a metric's key.
        model: which weights were evaluated: GLOBAL, PERSONAL or TUNED.
        is_new: whether over the clients that never train, and not over all others.

    >>> evaluated_as("f1"), evaluated_as("f1", PERSONAL), evaluated_as("f1", TUNED, True)
    ('f1', 'personal_f1', 'new_tuned_f1')
    """
    return f"{'new_' if is_new else ''}{'' if model == GLOBAL else f'{model}_'}{metric}"


def evaluations(
    *, personalizes: bool, personal_steps: int, has_new: bool
) -> tuple[tuple[str, bool], ...]:
    """Return which models are evaluated on which clients, in the order of their keys.

    Args:
        personalizes: whether clients have weights of their own.
        personal_steps: ``evaluation.personal_steps``.
        has_new: whether there are ``evaluation.new_clients``.

    Returns:
        The model, and whether the clients are the new ones: arguments of ``evaluated_as``.
    """
    models = (GLOBAL, *([PERSONAL] if personalizes else []), *([TUNED] if personal_steps else []))
    return tuple((model, is_new) for is_new in (False, True)[: 1 + has_new] for model in models)


def _client_metric(metric: str, line: Mapping[str, Any]) -> ClientMetric:
    keys = client_keys(metric)
    return ClientMetric(**{s: line[key] for s, key in keys.items() if key in line})


_SECONDS: Final = {"unit": "s", "varies": True}
_VARIES: Final = {"varies": True}
_BYTES: Final = {"unit": "B"}


@dataclass(frozen=True, eq=False)
class RoundRecord(Mapping[str, Any]):
    """One round: its numbers by kind, and a read-only mapping of its line in ``metrics.jsonl``.

    Fields are keys of the line, in its order. Those that vary between runs of the same scenario are
    marked; all others have the same bits on every backend.

    >>> record = RoundRecord(round=2, clients=3, train_loss=0.5, metrics={"accuracy": 0.75})
    >>> record["accuracy"], record.train_loss, record.measures
    (0.75, 0.5, {'train_loss': 0.5, 'accuracy': 0.75})
    """

    round: int
    """Counts from 1."""
    seconds: float = field(default=0.0, metadata=_SECONDS)
    """Wall time since the previous round's record, so that the rounds add up to the run's."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """The parts of ``seconds``; ``checkpoint`` and ``observe`` are those of the previous round."""
    train_loss: Number = None
    """The mean over all steps of the loss before the step, by examples. None also where no client
    took part."""
    clients: int = 0
    """How many contributed."""
    dropped: int = 0
    """How many were dropped."""
    retries: int = field(default=0, metadata=_VARIES)
    """How often a chunk was lost with its actor and trained again."""
    actors: int = field(default=0, metadata=_VARIES)
    """How many actors there were to train clients."""
    examples: int = 0
    """How many the contributing clients hold."""
    examples_seen: int = 0
    """How many they trained on, each counted as often as it was."""
    steps: int = 0
    sent_bytes: int = field(default=0, metadata=_BYTES)
    """What the server sent to the cohort, and to others that the sampler asked for losses: weights
    and auxiliary variables."""
    received_bytes: int = field(default=0, metadata=_BYTES)
    """What the contributing clients sent back: deltas, as messages of a codec if there is one, and
    auxiliary variables."""
    received_dense_bytes: int = field(default=0, metadata=_BYTES)
    """What these messages stand for: the same, with deltas as they are without a codec."""
    aux_bytes: int = field(default=0, metadata=_BYTES)
    """The part of both that is auxiliary variables."""
    delta_norm: Number = None
    """The L2 norm of the aggregated delta, trainable weights only."""
    metrics: Mapping[str, Number] = field(default_factory=dict)
    """On the test split; empty after a round without evaluation."""
    client_metrics: Mapping[str, ClientMetric] = field(default_factory=dict)
    """Over clients; empty after a round without their evaluation."""
    arrays: Mapping[str, list[Any]] = field(default_factory=dict)
    """Metrics that are no single number, such as a confusion matrix: nested lists by key."""
    read_from: Mapping[str, Any] | None = None
    """The line that the record was parsed from, if it was: an earlier version may have written
    other keys."""

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> RoundRecord:
        """Return the record of a line, whose keys beyond the known ones are metrics.

        Raises:
            ValueError: if it is no mapping that has a round.
        """
        if not isinstance(line, Mapping) or "round" not in line:
            raise ValueError("it is no mapping that has a round")
        arrays = {key: value for key, value in line.items() if isinstance(value, list)}
        metrics, over_clients = split_metrics(key for key in line if key not in arrays)
        return cls(
            **{key: line[key] for key in _NUMBERS if key in line},
            phases={key[len(_PHASE) :]: line[key] for key in line if key.startswith(_PHASE)},
            metrics={metric: line[metric] for metric in metrics},
            client_metrics={metric: _client_metric(metric, line) for metric in over_clients},
            arrays=arrays,
            read_from=line,
        )

    @cached_property
    def line(self) -> dict[str, Any]:
        """The record as plain data, in the order of its line in ``metrics.jsonl``."""
        if self.read_from is not None:
            return dict(self.read_from)
        line: dict[str, Any] = {}
        for key in _NUMBERS:
            line[key] = getattr(self, key)
            if key == "seconds":
                line |= {f"{_PHASE}{phase}": s for phase, s in self.phases.items()}
        line |= self.metrics
        for metric, found in self.client_metrics.items():
            line |= {key: getattr(found, s) for s, key in client_keys(metric).items()}
        return line | dict(self.arrays)

    @property
    def measures(self) -> dict[str, Number]:
        """How well the weights do: the training loss, and all metrics, by key.

        A round without clients has no training loss.
        """
        has_loss = self.line.get("clients") != 0
        return {
            key: value
            for key, value in self.line.items()
            if (is_metric(key) or (key == "train_loss" and has_loss)) and key not in self.arrays
        }

    @property
    def reproducible(self) -> dict[str, Any]:
        """What has the same bits on every backend, by key."""
        return {key: value for key, value in self.line.items() if is_reproducible(key)}

    @property
    def numbers(self) -> dict[str, float]:
        """What a tracker logs: all numbers that have a value, but for the round itself."""
        left_out = ("round", *self.arrays)
        return {k: v for k, v in self.line.items() if k not in left_out and v is not None}

    def without(self, *, metrics: bool, client_metrics: bool) -> RoundRecord:
        """Return the record as it were without one or both evaluations."""

        def stays(key: str) -> bool:
            is_of_clients = (
                key.startswith(_CLIENT) if key in self.arrays else key not in self.metrics
            )
            return not (is_metric(key) and (client_metrics if is_of_clients else metrics))

        return RoundRecord.parse({key: value for key, value in self.line.items() if stays(key)})

    def __getitem__(self, key: str) -> Any:
        return self.line[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.line)

    def __len__(self) -> int:
        return len(self.line)


_NUMBERS: Final = {
    one.name: one.metadata
    for one in fields(RoundRecord)
    if one.name not in ("phases", "metrics", "client_metrics", "arrays", "read_from")
}
"""The keys of every line besides the phases' seconds."""


def is_metric(key: str) -> bool:
    """Return whether a key of a line is a metric's."""
    return key not in _NUMBERS and not key.startswith(_PHASE)


def is_reproducible(key: str) -> bool:
    """Return whether a number of a line has the same bits on every backend.

    >>> [is_reproducible(key) for key in ("round", "loss", "seconds", "seconds_train", "retries")]
    [True, True, False, False, False]
    """
    return is_metric(key) or not (key.startswith(_PHASE) or _NUMBERS[key].get("varies"))


def split_metrics(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the metrics on the test split, and those over clients, among the keys of lines.

    Args:
        keys: of lines. In lines of earlier versions, some statistics over clients are missing.

    >>> split_metrics(["round", "loss", "client_loss", "client_loss_std", "client_f1"])
    (['loss'], ['loss', 'f1'])
    """
    metrics = [key for key in keys if is_metric(key)]
    over_clients = {key for key in metrics if key.startswith(_CLIENT)}
    ends = [end for end in _STATISTICS.values() if end]
    means = [
        key
        for key in metrics
        if key in over_clients
        and not any(key.endswith(end) and key[: -len(end)] in over_clients for end in ends)
    ]
    return [k for k in metrics if k not in over_clients], [k[len(_CLIENT) :] for k in means]


def record_units(phases: Iterable[str]) -> dict[str, str]:
    """Return the unit of each number of a line that has one.

    Args:
        phases: of the run's clock.
    """
    known = {key: about["unit"] for key, about in _NUMBERS.items() if about.get("unit")}
    return known | {f"{_PHASE}{phase}": "s" for phase in phases}


def require_own_names(
    metrics: Iterable[str], evaluated: Sequence[tuple[str, bool]] = ((GLOBAL, False),)
) -> None:
    """Check that the names of metrics, and of their means over clients, are unique.

    Args:
        metrics: their names, besides ``loss``.
        evaluated: what ``evaluations`` returns.

    Raises:
        ConfigError: naming the first one that is not unique.
    """
    taken = dict.fromkeys(_keys_of("loss", evaluated), "loss")
    for metric in metrics:
        keys = _keys_of(metric, evaluated)
        used = next((key for key in keys if key in taken), None)
        fields_of_records = (*_NUMBERS, *EVALUATION_KEYS, GLOBAL_TRAIN_LOSS)
        if metric in fields_of_records or metric.startswith("seconds"):
            reason = f"{metric!r} is a field of the records"
        elif used is None:
            taken |= dict.fromkeys(keys, metric)
            continue
        elif taken[used] == "loss":
            reason = f"{used!r} is derived from the loss"
        else:
            raise ConfigError(
                f"the metrics {taken[used]!r} and {metric!r} both give a number the name "
                f"{used!r}; rename one that is your own"
            )
        raise ConfigError(f"a metric has the name {metric!r}, but {reason}; rename it")


def _keys_of(metric: str, evaluated: Sequence[tuple[str, bool]]) -> list[str]:
    names = [evaluated_as(metric, model, is_new) for model, is_new in evaluated]
    return [metric, *(key for name in names for key in client_keys(name).values())]
