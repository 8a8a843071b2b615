"""What the user should know before a run, one line each: it works, but perhaps not as intended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from simfl.aggregation import EveryUpdate, mix_before
from simfl.algorithms import FedNova
from simfl.client import ClientRecipe, StackChoice, find_loss_fault, read_batch
from simfl.data import FederatedDataset
from simfl.models.metrics import adds_up
from simfl.models.model import call_module
from simfl.optimizer import FedProx, Momentum, ScaffoldServer
from simfl.scenario import Scenario
from simfl.server import ServerRecipe

_TRIED_ROWS = 32


def notes_of(
    scenario: Scenario,
    choices: Sequence[StackChoice],
    client: ClientRecipe,
    server: ServerRecipe,
    dataset: FederatedDataset,
    *,
    training: np.ndarray[Any, Any],
    num_steps: np.ndarray[Any, Any],
) -> tuple[str, ...]:
    """Return the notes on a scenario.

    Args:
        scenario: what is to be run.
        choices: each group's size of stacks.
        client: what clients do.
        server: what the server does.
        dataset: the examples.
        training: the ids of the clients that may train.
        num_steps: [population] the number of steps each client takes per round.
    """
    examples = dataset.num_train_examples()[training]
    return (
        *dataset.notes,
        *_notes_on_stacks_and_loss(choices, client, dataset),
        *_notes_on_evaluation(scenario, dataset),
        *_notes_on_metrics(scenario, client, server, dataset),
        *_notes_on_weighting(
            scenario, dataset, training=training, examples=examples, steps=num_steps[training]
        ),
        *_notes_on_public_data(scenario, dataset),
        *_notes_on_algorithm(scenario, server),
    )


def _notes_on_public_data(scenario: Scenario, dataset: FederatedDataset) -> list[str]:
    """Return a note if nothing uses public examples, which may be so to compare algorithms."""
    algorithm, public = scenario.algorithm, dataset.public
    may_use = algorithm.needs_public or not type(algorithm).__module__.startswith("simfl.")
    if public is None or may_use:
        return []
    return [
        f"data.public holds {len(public)} examples, which algorithm {algorithm.name!r} does not use"
    ]


def _notes_on_stacks_and_loss(
    choices: Sequence[StackChoice], client: ClientRecipe, dataset: FederatedDataset
) -> list[str]:
    """Return distinct notes on why clients are not stacked, and on a batch-dependent loss."""
    notes = list(dict.fromkeys(choice.note for choice in choices if choice.note))
    fault = find_loss_fault(client, dataset)
    if fault is None or any(fault in note for note in notes):
        return notes
    return [*notes, fault]


def _notes_on_weighting(
    scenario: Scenario,
    dataset: FederatedDataset,
    *,
    training: np.ndarray[Any, Any],
    examples: np.ndarray[Any, Any],
    steps: np.ndarray[Any, Any],
) -> list[str]:
    """Return a note if SCAFFOLD's optimum differs from that of the weighted mean."""
    server = scenario.server
    counts = {"examples": examples, "steps": steps}.get(server.weighting)
    aggregator = mix_before(server.aggregator, server.pre_aggregators)
    is_scaffold = any(isinstance(module, ScaffoldServer) for module in server.optimizer.modules)
    if is_scaffold and server.weighting == "tokens":
        counts = np.array([dataset.num_train_targets(client) for client in training.tolist()])
    if not is_scaffold or counts is None or isinstance(aggregator, EveryUpdate):
        return []
    if (counts == counts[0]).all():
        return []
    return [
        f"server.weighting is {server.weighting!r}, but scaffold-server's c is the uniform mean "
        "over all clients: training converges to the optimum of the uniform mean over clients; set "
        "server.weighting: uniform"
    ]


def _notes_on_algorithm(scenario: Scenario, server: ServerRecipe) -> list[str]:
    """Return notes on what an algorithm assumes of the model, and of the clients' steps."""
    algorithm = scenario.algorithm
    layers = server.build_model().module.modules() if algorithm.sends_gradients else ()
    if any(isinstance(layer, _BatchNorm) and layer.track_running_stats for layer in layers):
        return [
            f"algorithm {algorithm.name!r} takes gradients over all examples with the running "
            "averages of batch norm, and steps with the averages of a batch, so that the two "
            "differ; use a model with group or layer norm"
        ]
    return _notes_on_fednova(algorithm, scenario) if isinstance(algorithm, FedNova) else []


def _notes_on_fednova(algorithm: FedNova, scenario: Scenario) -> list[str]:
    """Return a note if clients take other steps than FedNova's a_i counts."""
    modules = [m for m in scenario.client.optimizer.modules if m.aux_name is None]
    betas = [m.beta for m in modules if isinstance(m, Momentum) and not m.nesterov]
    regularizers = scenario.client.optimizer.regularizers
    if len(betas) < len(modules) or any(isinstance(one, FedProx) for one in regularizers):
        why = "the clients' modules and regularizers are others"
    elif sum(betas) != algorithm.rho:
        why = f"the clients' momentum is {sum(betas)}; set algorithm.rho to it"
    elif betas and scenario.client.keep_state:
        why = "velocities last until the next round; set client.keep_state: false"
    else:
        return []
    return [
        f"algorithm 'fednova' counts steps of plain SGD with momentum {algorithm.rho}, but {why}"
    ]


def _notes_on_evaluation(scenario: Scenario, dataset: FederatedDataset) -> list[str]:
    """Return a note if metrics are named, but there is nothing to evaluate on."""
    evaluation = scenario.evaluation
    if not evaluation.metrics or not evaluation.every or evaluation.clients_every:
        return []
    if dataset.test is not None:
        return []
    return [
        "evaluation.metrics is not measured, as there is no test split; set data.test_fraction, or "
        "evaluation.clients_every for the clients' own examples"
    ]


def _notes_on_metrics(
    scenario: Scenario, client: ClientRecipe, server: ServerRecipe, dataset: FederatedDataset
) -> list[str]:
    """Return notes on metrics whose sums do not add up, if evaluation takes several batches."""
    metrics = [metric for metric in client.build_metrics() if metric.has_own_sums]
    evaluation = scenario.evaluation
    sizes = [len(dataset.test)] if dataset.test is not None and evaluation.every else []
    sizes += dataset.num_evaluation_examples().tolist() if evaluation.clients_every else []
    if not metrics or max(sizes, default=0) <= evaluation.batch_size:
        return []
    rows = np.unique(np.linspace(0, len(dataset.train) - 1, _TRIED_ROWS).astype(int))
    batch = read_batch(dataset.train, rows)
    try:
        with torch.no_grad():
            outputs = call_module(server.build_model().module.eval(), batch.inputs)
    except Exception:
        return []  # the client's step will report it
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return []
    # An untrained model may return the same output for all examples.
    spread = torch.sin(torch.arange(outputs.numel(), device=outputs.device) * 12.9898)
    outputs = outputs + spread.reshape(outputs.shape).to(outputs.dtype)
    return [
        f"the metric {metric.key!r} does not add up over batches, so it depends on "
        f"evaluation.batch_size ({evaluation.batch_size}): let sums() return two numbers that add "
        f"up, or raise batch_size to {max(sizes)}"
        for metric in metrics
        if not adds_up(metric, outputs, batch.targets)
    ]
