"""The server's part of a round: send weights and aux, receive contributions, take one step.

This module uses neither Ray nor the disk.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simfl.aggregation import Aggregator, TreeSum, merge_contributions
from simfl.errors import AggregationError
from simfl.messages import (
    Broadcast,
    Contribution,
    Partial,
    RoundPlan,
    RoundReport,
    Snapshot,
)
from simfl.models import DataShape, Loss, Model, ModelSpec, TorchModel, build_module
from simfl.optimizer import Optimizer
from simfl.vector import Vector, count_bytes, is_finite

__all__ = ["Server", "ServerRecipe"]


@dataclass(frozen=True)
class ServerRecipe:
    """Everything needed to build the server; it is sent to the server's actor."""

    spec: ModelSpec
    shape: DataShape
    loss: Loss
    optimizer: Optimizer
    client_optimizer: Optimizer
    """Its modules define how the clients' auxiliary variables merge."""
    aggregator: Aggregator
    seed: int

    def build_model(self) -> TorchModel:
        """Build the model with the run's initial weights; it computes only the loss."""
        module = build_module(self.spec, self.shape, seed=self.seed)
        return TorchModel(module, self.loss, metrics=())

    def build(self) -> Server:
        """Build the server."""
        optimizer = copy.deepcopy(self.optimizer)
        optimizer.seed = self.seed
        return Server(
            self.build_model(),
            optimizer=optimizer,
            client_optimizer=self.client_optimizer,
            aggregator=self.aggregator,
        )


class Server:
    """Holds the weights, and updates them with each round's contributions.

    Args:
        model: with the initial weights.
        optimizer: turns the aggregated delta into an update of the weights.
        client_optimizer: the clients' optimizer, which defines how auxiliary variables merge.
        aggregator: combines the deltas into one.
    """

    def __init__(
        self,
        model: Model,
        *,
        optimizer: Optimizer,
        client_optimizer: Optimizer,
        aggregator: Aggregator,
    ) -> None:
        self._weights = _Weights(model)
        self._optimizer = optimizer
        self._client_optimizer = client_optimizer
        self._aggregator = aggregator
        self._tree: TreeSum[Contribution] | None = None
        self._received: set[int] = set()
        self._broadcast_bytes = self._aux_bytes = 0

    def get_weights(self) -> Vector:
        """Return all weights; later steps do not modify them."""
        return self._weights.all

    def snapshot(self, round: int) -> Snapshot:
        """Return the state at the start of a round, for its clients and for restoring the server.

        Raises:
            AggregationError: if auxiliary variables are not finite.
        """
        broadcast = Broadcast(round, self._weights.all, self._optimizer.collect_aux_var())
        shared = [value for aux in broadcast.aux.values() for value in aux.values()]
        if not all(bool(is_finite(value).all()) for value in shared):
            raise _not_finite(round - 1, "server.optimizer's auxiliary variables")
        self._count_bytes(broadcast)
        return Snapshot(broadcast, self._optimizer.export_state())

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the server from a snapshot; partials received so far are discarded."""
        self._weights.all = snapshot.broadcast.weights.clone()
        self._optimizer.import_state(snapshot.optimizer)
        self._tree, self._received = None, set()
        self._count_bytes(snapshot.broadcast)

    def receive(self, partial: Partial) -> None:
        """Add a chunk's partial to the round's tree; duplicates are ignored."""
        if self._tree is None:
            self._tree = TreeSum[Contribution](partial.cohort_size, self._merge)
        if partial.start in self._received:
            return
        self._received.add(partial.start)
        for node, contribution in partial.nodes.items():
            self._tree.add_node(node, contribution)

    def end_round(self, plan: RoundPlan) -> RoundReport:
        """Finish the sum, and take the server's optimizer step.

        Raises:
            AggregationError: if no client has contributed, or the result of finite client updates
                is not finite.
        """
        assert self._tree is not None, "no partial was received"
        total = self._tree.result()
        self._tree, self._received = None, set()
        if total is None:
            raise AggregationError(
                f"every one of the {len(plan.clients)} clients of round {plan.round} was dropped"
            )
        self._optimizer.process_aux_var(total.aux)
        counts = self._weights.counts
        delta = self._aggregator.finish_round(total.total, total.weight, counts=counts)
        self._optimizer.start_round()
        names = self._weights.trainable
        trained = delta.select(names)
        buffers = delta.select(name for name in delta.names if name not in names)
        self._optimizer.apply_gradients(self._weights, trained)
        if buffers:
            self._weights.subtract_from_buffers(buffers)
        if not all(made.is_finite() for made in (self._weights.trained, buffers) if made):
            by = f"server.aggregator {self._aggregator.name!r}"
            raise _not_finite(plan.round, by if not delta.is_finite() else "server.optimizer")
        return self._report(plan, total, norm=float(trained.norm()))

    def _report(self, plan: RoundPlan, total: Contribution, *, norm: float) -> RoundReport:
        sums = total.sums
        return RoundReport(
            round=plan.round,
            num_clients=int(sums["clients"]),
            num_dropped=len(plan.clients) - int(sums["clients"]),
            num_examples=int(sums["examples"]),
            num_seen=int(sums["seen"]),
            num_steps=int(sums["steps"]),
            train_loss=sums["loss"] / max(sums["seen"], 1.0),
            delta_norm=norm,
            sent_bytes=len(plan.clients) * self._broadcast_bytes,
            received_bytes=int(sums["bytes"]),
            aux_bytes=len(plan.clients) * self._aux_bytes + int(sums["aux_bytes"]),
        )

    def _count_bytes(self, broadcast: Broadcast) -> None:
        self._broadcast_bytes = count_bytes(broadcast)
        self._aux_bytes = count_bytes(broadcast.aux)

    def _merge(self, left: Contribution, right: Contribution) -> Contribution:
        return merge_contributions(
            left, right, aggregator=self._aggregator, optimizer=self._client_optimizer
        )


class _Weights:
    """The server's weights, behind the Model interface that its Optimizer updates.

    They are immutable: a step creates new ones, so that snapshots need no copy.
    """

    def __init__(self, model: Model) -> None:
        self.all = model.get_weights()
        self.trainable = model.get_weights(trainable=True).names
        self.counts = frozenset(n for n, t in self.all.items() if not t.is_floating_point())

    @property
    def trained(self) -> Vector:
        """The trainable weights; not a copy."""
        return self.all.select(self.trainable)

    def get_weights(self, trainable: bool = False) -> Vector:
        """Return a copy, since plug-ins receive it."""
        return (self.trained if trainable else self.all).clone()

    def compute_batch_gradients(self, batch: Any, max_norm: float | None = None) -> Vector:
        raise AssertionError("the server has no examples to train on")

    def apply_updates(self, updates: Vector) -> None:
        self.apply_scaled_updates(updates, 1.0)

    def apply_scaled_updates(self, updates: Vector, scale: float) -> None:
        """Add scale times the updates to the trainable weights."""
        self.all = self.all | self._rounded(self.trained.add_scaled(updates, scale))

    def subtract_from_buffers(self, delta: Vector) -> None:
        """Subtract the mean delta of buffers, which are averaged without the optimizer."""
        averaged = {name: _averaged(self.all[name], value) for name, value in delta.items()}
        self.all = self.all | Vector(averaged)

    def _rounded(self, wide: Vector) -> Vector:
        """Convert the weights, which were updated in float32, back to their own dtypes."""
        return Vector({name: value.to(self.all[name].dtype) for name, value in wide.items()})


def _not_finite(round: int, where: str) -> AggregationError:
    return AggregationError(
        f"round {round}: {where}: NaN or infinite values resulted from finite client updates; "
        "lower the learning rates, or check its computation"
    )


def _averaged(buffer: Tensor, delta: Tensor) -> Tensor:
    """Return the buffer minus the mean delta, in the buffer's dtype.

    Averaged counts, such as num_batches_tracked, are floats with a rounding error; from 2^52 on,
    float64 cannot represent the rounded count.
    """
    if buffer.is_floating_point():
        return (buffer - delta).to(buffer.dtype)
    counts = buffer.long()
    nearby = (counts - delta).round().long()
    exact = counts - delta.round().long()
    return torch.where(counts.abs() < 2**52, nearby, exact).to(buffer.dtype)
