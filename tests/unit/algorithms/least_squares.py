"""simfl's clients and server on the least squares of ``papers``, without a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from papers import LeastSquares
from torch import nn

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm, State
from simfl.client import ClientHost, ClientRecipe
from simfl.data import Examples, FederatedDataset
from simfl.engine import InlineEngine
from simfl.messages import RoundPlan
from simfl.models import DataShape, ModelSpec, data_shape
from simfl.models.losses import as_loss
from simfl.optimizer import Optimizer
from simfl.sections import ClientSection, OptimizerSection
from simfl.server import ServerRecipe

Array = np.ndarray


@dataclass(frozen=True)
class Linear(ModelSpec):
    """x w, with w given, and a bias of 0 if wanted."""

    name: ClassVar[str] = "least-squares-of-a-test"
    start: tuple[float, ...] = ()
    dtype: str = "float64"
    bias: bool = False

    def build(self, shape: DataShape) -> nn.Module:
        layer = nn.Linear(len(self.start), 1, bias=self.bias, dtype=getattr(torch, self.dtype))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([self.start]))
            if self.bias:
                layer.bias.zero_()
        return layer


@dataclass(frozen=True)
class Run:
    """How clients and server work; the defaults are full batches and the mean."""

    problem: LeastSquares
    start: Array
    lrate: float = 0.1
    steps: int | None = 5
    batch_size: int | None = None
    server_lrate: float = 1.0
    modules: Sequence[Any] = ()
    weighting: Any = "examples"
    dtype: str = "float64"
    stack: int = 1
    keep_state: bool = True
    loss: Any = "mse"
    has_bias: bool = False
    """Whether there is a bias, which is each client's own (``model.personal``)."""
    ended: dict[str, Any] = field(default_factory=dict, compare=False)

    def weights(self, algorithm: Algorithm, cohorts: Sequence[Sequence[int]]) -> Array:
        """Return the server's weights after each round: [rounds, D]."""
        engine = self._engine(algorithm)
        handle, out = engine.start(), []
        for number, cohort in enumerate(cohorts, start=1):
            steps = [len(self._rows(k)) for k in cohort]
            ordered = [k for _, k in sorted(zip(steps, cohort, strict=True), reverse=True)]
            plan = RoundPlan(number, tuple(ordered), tuple(sorted(steps, reverse=True)))
            handle = engine.end_round(engine.train(plan, handle)).handle
            out.append(engine.get_weights(handle)["weight"].flatten().numpy().astype(float))
        self.ended.update(server=handle.state.algorithm, states=engine._states)
        return np.array(out)

    def kept(self, key: str) -> Array:
        """Return an entry of what each client keeps after the last run: [N, D]."""
        states = [self.ended["states"].get(k).algorithm for k in self.problem.clients]
        return np.array([state[key]["weight"].flatten().numpy() for state in states])

    def server_state(self) -> State:
        """Return the state of the server's half after the last run."""
        state: State = self.ended["server"]
        return state

    def _rows(self, k: int) -> range:
        first = int(self.problem.sizes[:k].sum())
        return range(first, first + int(self.problem.sizes[k]))

    def _dataset(self) -> FederatedDataset:
        sizes = self.problem.sizes.astype(int)
        inputs = np.repeat(self.problem.inputs, sizes, axis=0).astype(self.dtype)
        targets = np.repeat(self.problem.targets, sizes, axis=0).astype(self.dtype)[..., None]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        return FederatedDataset(Examples(inputs, targets), np.arange(ends[-1]), ends, ends[1:])

    def _engine(self, algorithm: Algorithm) -> InlineEngine:
        data = self._dataset()
        optimizer = OptimizerSection(lrate=self.lrate)
        work: dict[str, Any] = {"steps": self.steps, "batch_size": self.batch_size}
        recipe = ClientRecipe(
            spec=Linear(tuple(self.start.tolist()), dtype=self.dtype, bias=self.has_bias),
            shape=data_shape(data.train.inputs, data.train.targets),
            loss=as_loss(self.loss),
            metrics=(),
            optimizer=Optimizer(self.lrate, modules=list(self.modules)),
            aggregator=Mean(),
            work=ClientSection(optimizer=optimizer, keep_state=self.keep_state, **work),
            seed=0,
            algorithm=algorithm,
            personal=("bias",) if self.has_bias else (),
            weighting=self.weighting,
            stack=self.stack,
        )
        server = ServerRecipe(
            spec=recipe.spec,
            shape=recipe.shape,
            loss=recipe.loss,
            optimizer=Optimizer(self.server_lrate),
            client_optimizer=recipe.optimizer,
            aggregator=recipe.aggregator,
            seed=0,
            algorithm=algorithm,
            population=len(self.problem.inputs),
            personal=recipe.personal,
        )
        return InlineEngine(server.build(), [ClientHost(recipe, data)])
