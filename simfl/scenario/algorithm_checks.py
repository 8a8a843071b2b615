"""Checks of an algorithm with other keys: what it ignores, and what it cannot work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from simfl.algorithms import Algorithm
from simfl.optimizer import OptiModule
from simfl.optimizer.schedule import goes_by_steps
from simfl.sampling import LocalWork
from simfl.scenario.fields import keys_of
from simfl.scenario.schema import Scenario
from simfl.sections import ServerSection

Fault: TypeAlias = tuple[str, str]
"""The key to report, and the message."""


def _algorithm(scenario: Scenario) -> Iterator[Fault]:
    """Find what has no effect under an algorithm that takes its own steps."""
    optimizer = scenario.client.optimizer
    for key in ("modules", "regularizers", "w_decay"):
        if getattr(optimizer, key) and not scenario.algorithm.uses_optimizer:
            yield (
                f"client.optimizer.{key}",
                f"has no effect: algorithm {scenario.algorithm.name!r} takes steps of its own, of "
                "size client.optimizer.lrate; remove it",
            )


def _unfit(scenario: Scenario) -> Iterator[Fault]:
    """Find what else an algorithm ignores, or cannot work with."""
    algorithm, name = scenario.algorithm, scenario.algorithm.name
    if not algorithm.uses_optimizer and goes_by_steps(scenario.client.optimizer.lrate):
        yield (
            "client.optimizer.lrate",
            f"goes by steps, but those that algorithm {name!r} takes are not counted; "
            "set unit: round",
        )
    if algorithm.needs_classes and scenario.model.loss.takes_numbers:
        yield (
            "model.loss",
            f"is {scenario.model.loss.name!r}, which compares one output with each target, but "
            f"algorithm {name!r} needs logits of classes; use cross-entropy",
        )
    for key in algorithm.ignores:
        if _is_changed(scenario, key):
            yield key, f"has no effect with algorithm {name!r}; remove it"


def _is_changed(scenario: Scenario, key: str) -> bool:
    """Return whether a key has another value than its default, and may be left out."""
    *path, name = key.split(".")
    section: Any = scenario
    for part in path:
        section = getattr(section, part)
    value, (_, default) = getattr(section, name), keys_of(type(section))[name]
    if isinstance(section, LocalWork) and name == "epochs":
        return value not in (None, 1)
    if name == "modules":  # what auxiliary variables become has an effect
        return not all(receives(module) for module in value)
    return bool(value != default)


def _aggregation(scenario: Scenario) -> Iterator[Fault]:
    """Find keys of the server that have no effect, as the algorithm does it in another way."""
    server, algorithm = scenario.server, scenario.algorithm
    given = {
        "aggregator": server.aggregator != ServerSection().aggregator,
        "pre_aggregators": bool(server.pre_aggregators),
    }
    for key, is_given in given.items():
        if is_given and not algorithm.sends_delta:
            yield (
                f"server.{key}",
                f"has no effect: algorithm {algorithm.name!r} sends no deltas; remove it",
            )
    by, used = server.weighting, {ServerSection().weighting, algorithm.weighted_by}
    if by not in used and algorithm.weighted_by != Algorithm.weighted_by:
        yield (
            "server.weighting",
            f"is {by!r}, but algorithm {algorithm.name!r} weights clients by "
            f"{algorithm.weighted_by}; remove it",
        )


def _weights(scenario: Scenario) -> Iterator[Fault]:
    """Find rules of the server that ignore how the scenario or the algorithm weights clients."""
    server, algorithm = scenario.server, scenario.algorithm
    if not server.pre_aggregators and server.aggregator.uses_weights:
        return
    key = "pre_aggregators" if server.pre_aggregators else "aggregator"
    rule = (*server.pre_aggregators, server.aggregator)[0].name
    if algorithm.weighted_by not in _BY_COUNT:
        yield (
            f"server.{key}",
            f"is {rule!r}, which ignores clients' weights, but those of algorithm "
            f"{algorithm.name!r} are {algorithm.weighted_by}; remove it",
        )
    elif server.weighting in ("steps", "tokens"):
        yield (
            "server.weighting",
            f"is {server.weighting!r}, but {rule!r} in server.{key} ignores clients' weights; "
            "remove it",
        )


_BY_COUNT: Final = (Algorithm.weighted_by, "uniform", "examples", "nothing")


def _pooled(scenario: Scenario) -> Iterator[Fault]:
    """Find what has no effect where the server trains instead of the clients."""
    given = {"data.public": scenario.data.public, "model.personal": scenario.model.personal}
    for key, value in given.items():
        if value and scenario.algorithm.pools_clients:
            yield (
                key,
                f"has no effect: algorithm {scenario.algorithm.name!r} trains one model, on all "
                "clients' examples; remove it",
            )
    judged = {"stop.metric": scenario.stop and scenario.stop.metric}
    judged["output.best"] = scenario.output.best
    for key, metric in judged.items():
        if metric == "train_loss" and scenario.algorithm.pools_clients:
            yield (
                key,
                f"is {metric!r}, but with algorithm {scenario.algorithm.name!r} clients do not "
                "train; take global_train_loss, with evaluation.train_loss",
            )
    modules = scenario.client.optimizer.modules if scenario.algorithm.pools_clients else ()
    for index, module in enumerate(modules):
        if receives(module):
            yield (
                f"client.optimizer.modules[{index}]",
                f"is {module.name!r}, but with algorithm {scenario.algorithm.name!r} there are no "
                "clients to exchange auxiliary variables with; remove it",
            )
    if scenario.algorithm.pools_clients and goes_by_steps(scenario.client.optimizer.lrate):
        yield (
            "client.optimizer.lrate",
            f"goes by steps, but algorithm {scenario.algorithm.name!r} counts them anew in each "
            "round; set unit: round",
        )


def receives(module: OptiModule) -> bool:
    """Return whether a module takes auxiliary variables of the other side."""
    return overrides(module, "process_aux_var")


def sends(module: OptiModule) -> bool:
    """Return whether a module has auxiliary variables for the other side."""
    return overrides(module, "collect_aux_var")


def overrides(module: OptiModule, method: str) -> bool:
    """Return whether a module has this method of its own."""
    return getattr(type(module), method) is not getattr(OptiModule, method)


ALGORITHM_CHECKS: Final[tuple[Callable[[Scenario], Iterator[Fault]], ...]] = (
    _algorithm,
    _unfit,
    _aggregation,
    _weights,
    _pooled,
)
