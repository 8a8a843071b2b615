"""By which metrics rounds are judged: when a run ends early, and which weights are its best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from simfl.errors import did_you_mean
from simfl.models import Metric
from simfl.record import GLOBAL_TRAIN_LOSS, PERSONAL, RoundRecord, client_keys, evaluated_as
from simfl.scenario import Scenario

Better: TypeAlias = Mapping[str, Literal["max", "min"]]


def better_keys(
    scenario: Scenario, metrics: Sequence[Metric], *, has_test: bool
) -> dict[str, Literal["max", "min"]]:
    """Return the metrics evaluated in any round, by key, and ``max`` or ``min`` for each.

    The metric that ranks runs comes first: the first one on the test split, or else its unweighted
    mean over clients. Where no server trains, that is their mean with clients' own weights.

    Args:
        scenario: says what is evaluated.
        metrics: what is measured besides the loss.
        has_test: whether there is a test split.
    """
    numbers = [metric for metric in metrics if metric.is_number]
    sides = {m.key: "max" if m.larger_is_better else "min" for m in numbers} | {"loss": "min"}
    better: dict[str, Any] = {}
    evaluation = scenario.evaluation
    if evaluation.clients_every and not scenario.algorithm.trains_server:
        better |= {client_keys(evaluated_as(k, PERSONAL))["mean"]: s for k, s in sides.items()}
    if evaluation.every and has_test:
        better |= sides
    over = [
        (client_keys(evaluated_as(name, model, is_new)), side)
        for model, is_new in (scenario.evaluations if evaluation.clients_every else ())
        for name, side in sides.items()
    ]
    better |= {keys["mean"]: side for keys, side in over}
    better["train_loss"] = "min"
    if evaluation.every and evaluation.train_loss:
        better[GLOBAL_TRAIN_LOSS] = "min"
    for keys, side in over:
        better |= {keys[part]: side for part in ("by_examples", "worst", "best")}
        better[keys["std"]] = "min"
    return better


@dataclass(frozen=True)
class Rule:
    """By which metric rounds are judged, and when it ends a run."""

    metric: str
    is_max: bool
    """Whether large values are better."""
    min_delta: float = 0.0
    patience: int | None = None
    target: float | None = None

    def gain(self, value: float, other: float) -> float:
        """Return by how much a value is better than another."""
        return value - other if self.is_max else other - value


@dataclass(frozen=True)
class Rules:
    """When a run ends early, and which round is its best."""

    stop: Rule | None = None
    best: Rule | None = None


@dataclass(frozen=True)
class Standing:
    """What a rule has seen of a run after some round: a function of the records alone."""

    round: int = 0
    """The round of the best value; 0: there is none."""
    value: float | None = None
    """The best value."""
    waited: int = 0
    """How often the metric has been measured since, and was not better."""
    reason: str | None = None
    """Why the run ends here; None: it goes on."""

    def after(self, record: RoundRecord, rule: Rule) -> Standing:
        """Return what it is after a round."""
        measures = record.measures
        if rule.metric not in measures:
            return self
        value = measures[rule.metric]
        if value is not None and (
            self.value is None or rule.gain(value, self.value) > rule.min_delta
        ):
            standing = Standing(record.round, value)
        else:
            standing = replace(self, waited=self.waited + 1)
        return replace(standing, reason=standing.reason_to_stop(value, rule))

    def reason_to_stop(self, value: float | None, rule: Rule) -> str | None:
        """Return why a run ends with the value that was just measured, if it does."""
        if rule.target is not None and value is not None and rule.gain(value, rule.target) >= 0:
            return f"{rule.metric} has reached {rule.target:g}"
        if rule.patience is not None and self.waited >= rule.patience:
            times = f"{self.waited} times in a row" if self.waited > 1 else "once"
            since = f" than in round {self.round}" if self.round else ""
            return f"{rule.metric} was measured {times} without being better{since}"
        return None


def rules_of(scenario: Scenario, better: Better) -> Rules:
    """Return by what rounds are judged.

    Args:
        scenario: has ``stop`` and ``output.best``.
        better: what is measured, as ``better_keys`` returns it.

    Raises:
        ScenarioError: for a metric that is not measured.
    """

    def rule(key: str, metric: str | None, **of_stop: Any) -> Rule:
        if metric is not None and metric not in better:
            hint = did_you_mean(metric, better)
            raise scenario.fault(key, f"is {metric!r}, which the run does not measure. {hint}")
        name = next(iter(better)) if metric is None else metric
        return Rule(name, better[name] == "max", **of_stop)

    stop, best = scenario.stop, scenario.output.best
    return Rules(
        None
        if stop is None
        else rule(
            "stop.metric",
            stop.metric,
            min_delta=stop.min_delta,
            patience=stop.patience,
            target=stop.target,
        ),
        None if best is None else rule("output.best", None if best == "auto" else best),
    )


class Watch:
    """Judges the rounds of a run, one after another.

    It knows nothing but the records, so that a run that is resumed, or goes back, judges alike.

    Args:
        rules: how.
        history: the rounds that are done.
    """

    def __init__(self, rules: Rules = Rules(), history: Iterable[RoundRecord] = ()) -> None:
        self.rules = rules
        self._standings = [(Standing(), Standing())]
        for record in history:
            self.take(record)

    def take(self, record: RoundRecord) -> None:
        """Take the next round into account."""
        self._standings.append(self._after(record))

    def looks_at(self, metric: str) -> bool:
        """Return whether rounds are judged by this metric."""
        return any(rule and rule.metric == metric for rule in (self.rules.stop, self.rules.best))

    def go_back(self, round: int) -> None:
        """Forget the rounds after this one."""
        del self._standings[round + 1 :]

    def ends_with(self, record: RoundRecord) -> bool:
        """Return whether the run would end with this round."""
        return self._after(record)[0].reason is not None

    @property
    def reason(self) -> str | None:
        """Why the run ends after the last round that was taken; None: it goes on."""
        return self._standings[-1][0].reason

    def best_round(self, round: int | None = None) -> int:
        """Return the best of the first rounds, or of all so far; 0 if there is none."""
        last = len(self._standings) - 1 if round is None else round
        return self._standings[last][1].round

    def summary(self) -> dict[str, Any]:
        """Return what the run's summary says of it."""
        found: dict[str, Any] = {}
        if self.rules.best is not None:
            best = self._standings[-1][1]
            found["best"] = {"metric": self.rules.best.metric} | (
                {"round": best.round, "value": best.value} if best.round else {"round": None}
            )
        if self.reason is not None:
            found["stopped_early"] = self.reason
        return found

    def _after(self, record: RoundRecord) -> tuple[Standing, Standing]:
        rules = (self.rules.stop, self.rules.best)
        stop, best = (
            standing if rule is None else standing.after(record, rule)
            for standing, rule in zip(self._standings[-1], rules, strict=True)
        )
        return stop, best
