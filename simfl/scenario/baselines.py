"""A scenario as its own baseline: all examples in one place, or each client alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal, TypeAlias, get_args

from simfl.algorithms import Centralized, LocalOnly
from simfl.errors import InputError, did_you_mean
from simfl.optimizer import OptiModule
from simfl.optimizer.regularizers import FedProx
from simfl.scenario.algorithm_checks import receives, sends
from simfl.scenario.checks import check_combinations
from simfl.scenario.schema import Scenario
from simfl.sections import ClientSection, ServerSection

Baseline: TypeAlias = Literal["centralized", "local"]
"""``centralized``: one model is trained on the examples of all clients, for as many steps as the
round's clients would have taken. ``local``: each client trains its own model, and sends nothing."""

BASELINES: Final = get_args(Baseline)


def baseline_of(scenario: Scenario, baseline: Baseline) -> Scenario:
    """Return the scenario as a baseline: the same data, model, steps and evaluation.

    What only a federation has is left out, and so has its default: ``server``, ``data.public``,
    ``model.personal``, ``client.transforms``, the regularizer ``fedprox``, and modules of the
    clients' Optimizer that exchange auxiliary variables. Where clients train alone, they keep their
    states, and there are no common weights to evaluate on the test split: clients are evaluated
    instead, as often, and a metric of that split in ``stop`` and ``output.best`` is their own.

    Raises:
        InputError: if there is no such baseline.
        ScenarioError: for what remains and cannot work with it.
    """
    if baseline not in BASELINES:
        hint = did_you_mean(str(baseline), BASELINES)
        raise InputError(f"baseline is {baseline!r}; it is centralized or local. {hint}".rstrip())
    made = replace(
        scenario,
        name=f"{scenario.name or 'run'}-{baseline}",
        label=baseline,
        algorithm=Centralized(work="cohort"),
        data=replace(scenario.data, public=None),
        model=replace(scenario.model, personal=()),
        client=_without_exchange(scenario.client),
        server=ServerSection(),
    )
    made = _local(made) if baseline == "local" else made
    check_combinations(made)
    return made


def _local(scenario: Scenario) -> Scenario:
    evaluation, stop, output = scenario.evaluation, scenario.stop, scenario.output
    often = evaluation.clients_every or evaluation.every or 1
    return replace(
        scenario,
        algorithm=LocalOnly(),
        client=replace(scenario.client, keep_state=True),
        evaluation=replace(evaluation, every=0, train_loss=False, clients_every=often),
        stop=stop and replace(stop, metric=_of_clients(stop.metric)),
        output=replace(output, best=_of_clients(output.best)),
    )


def _of_clients(metric: str | None) -> str | None:
    """Return what measures over clients, with their own weights, what a metric measures."""
    if metric in (None, "auto", "train_loss"):
        return metric
    what = metric.removeprefix("client_")
    return metric if what.startswith(("personal_", "tuned_", "new_")) else f"client_personal_{what}"


def _without_exchange(client: ClientSection) -> ClientSection:
    optimizer = replace(
        client.optimizer,
        regularizers=tuple(r for r in client.optimizer.regularizers if not isinstance(r, FedProx)),
        modules=tuple(module for module in client.optimizer.modules if not _exchanges(module)),
    )
    return replace(client, optimizer=optimizer, transforms=())


def _exchanges(module: OptiModule) -> bool:
    return sends(module) or receives(module)
