"""A few clients and a server in this process, to run an algorithm round by round."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.engine import InlineEngine
from simfl.messages import RoundPlan
from simfl.models import DataShape, ModelSpec, data_shape
from simfl.models.losses import as_loss
from simfl.optimizer import Optimizer
from simfl.seeding import derive_seed
from simfl.server import PublicData, ServerRecipe
from simfl.states import State
from simfl.vector import Vector
from tests.unit.client.client_cases import changed, client_section


@dataclass(frozen=True)
class Given(ModelSpec):
    """The module that a test made, or what makes one; no scenario can name it."""

    module: Any = None

    def build(self, shape: DataShape) -> nn.Module:
        return copy.deepcopy(self.module) if isinstance(self.module, nn.Module) else self.module()


class Linear64(nn.Module):
    """x w in float64, without a bias; w starts at 0, or at what is given."""

    def __init__(self, features: int, start: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = torch.zeros(features) if start is None else torch.tensor(start)
        self.w = nn.Parameter(weights.double())

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double() @ self.w


class Net64(nn.Module):
    """A small network of a body and a head, in float64."""

    def __init__(self, features: int = 4, hidden: int = 5, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Linear(features, hidden).double()
            self.head = nn.Linear(hidden, classes).double()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.features(inputs))
        return outputs

    def features(self, inputs: Tensor) -> Tensor:
        """Return what goes into the head."""
        return torch.tanh(self.body(inputs.double()))


class _LowRank64(nn.Module):
    """A linear layer with an adapter, and the names and the scale of peft's."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.base_layer = nn.Linear(4, 3, bias=False).double()
            first, second = (nn.Linear(*s, bias=False).double() for s in ((4, 2), (2, 3)))
        self.lora_A = nn.ModuleDict({"default": first})
        self.lora_B = nn.ModuleDict({"default": second})
        self.scaling = {"default": 2.0}

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.double()
        added = self.lora_B["default"](self.lora_A["default"](inputs))
        outputs: Tensor = self.base_layer(inputs) + added * 2.0
        return outputs


class Adapted64(nn.Module):
    """A model of a layer with an adapter of rank 2, and other weights, in float64."""

    def __init__(
        self, *, frozen: tuple[str, ...] = ("layer.base_layer.weight",), is_new: bool = False
    ) -> None:
        super().__init__()
        self.layer = _LowRank64()
        self.offset = nn.Parameter(torch.zeros(3).double())
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in frozen)
        if is_new:
            nn.init.zeros_(self.layer.lora_B["default"].weight)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs) + self.offset
        return outputs


class Federation:
    """Runs rounds of an algorithm.

    Args:
        algorithm: which.
        clients: each client's inputs and targets.
        module: with the initial weights, or what draws one.
        loss: a loss's name.
        stack: how many clients train in one computation.
        server_lrate: the server's learning rate.
        weighting: what ``server.weighting`` says.
        public: the server's examples.
        personal: the names of the weights that clients keep for themselves.
        dtype: of the examples, whose numbers are those of float32. The weights of examples in
            batches that are padded have it, too.
        work: keys of the local work; by default one epoch of full batches.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Sequence[tuple[np.ndarray, np.ndarray]],
        module: nn.Module | Callable[[], nn.Module],
        *,
        loss: Any = "mse",
        seed: int = 0,
        dtype: str = "float64",
        lrate: float = 0.1,
        stack: int = 1,
        server_lrate: float = 1.0,
        weighting: Any = "examples",
        public: Examples | None = None,
        personal: tuple[str, ...] = (),
        **work: Any,
    ) -> None:
        self.algorithm = algorithm
        self.data = _dataset(clients, dtype)
        shape = data_shape(self.data.train.inputs, self.data.train.targets)
        recipe = ClientRecipe(
            spec=Given(module=module),
            shape=shape,
            loss=as_loss(loss),
            metrics=None,
            optimizer=Optimizer(lrate=lrate).with_personal(personal),
            aggregator=Mean(),
            work=client_section(LocalWork(**work)),
            seed=seed,
            weighting=weighting,
            personal=personal,
        )
        self.recipe = changed(recipe, algorithm=algorithm, stack=stack)
        server = ServerRecipe(
            spec=recipe.spec,
            shape=shape,
            loss=recipe.loss,
            optimizer=Optimizer(lrate=server_lrate),
            client_optimizer=recipe.optimizer,
            aggregator=recipe.aggregator,
            seed=seed,
            algorithm=algorithm,
            population=len(clients),
            personal=personal,
            public=public and PublicData(replace(self.recipe, stack=1), public),
        )
        self.host = ClientHost(self.recipe, self.data)
        self.engine = InlineEngine(server.build(), [self.host])
        self.snapshot = self.engine.start()
        self.engine.close()

    def run(self, rounds: int = 1, *, cohort: Sequence[int] | None = None) -> Federation:
        """Train for some rounds; clients with more work come first, as in every run."""
        examples = self.data.num_train_examples(range(self.data.num_clients))
        chosen = range(self.data.num_clients) if cohort is None else cohort
        steps = self.recipe.work.num_steps(examples)
        ids = tuple(sorted(chosen, key=lambda client: (-steps[client], client)))
        for _ in range(rounds):
            plan = RoundPlan(self.snapshot.broadcast.round, ids)
            self.report, _, self.snapshot = self.engine.end_round(
                self.engine.train(plan, self.snapshot)
            )
        return self

    @property
    def weights(self) -> Vector:
        """The server's weights."""
        return self.snapshot.broadcast.weights

    @property
    def state(self) -> State:
        """The state of the server's half of the algorithm."""
        return self.snapshot.state.algorithm

    def batches(
        self, client: int, *, round: int, phase: str = "", epochs: int = 1
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the batches that a client trains on in a round, in order."""
        work = LocalWork(epochs=epochs, batch_size=self.recipe.work.batch_size)
        seed = derive_seed(0, f"phase {phase}") if phase else 0
        rows = self.data.train_rows(client)
        drawn = work.draw_batches(rows, seed=seed, round=round, client=client)
        inputs, targets = self.data.train.inputs, self.data.train.targets
        return [(torch.from_numpy(inputs[own]), torch.from_numpy(targets[own])) for own in drawn]

    def kept(self, client: int) -> State:
        """What a client keeps of the algorithm."""
        state: Any = self.engine._states.get(client)
        return dict(state.algorithm)

    def personal(self, client: int) -> Vector:
        """The weights that a client is evaluated with."""
        state: Any = self.engine._states.get(client)
        trainer: Any = self.host._trainer
        local = trainer.local(client, self.snapshot.broadcast, state)
        return self.algorithm.personal(local)


def _dataset(clients: Sequence[tuple[np.ndarray, np.ndarray]], dtype: str) -> FederatedDataset:
    inputs = np.concatenate([x for x, _ in clients]).astype(np.float32).astype(dtype)
    targets = np.concatenate([y for _, y in clients])
    if targets.dtype.kind == "f":
        targets = targets.astype(np.float32).astype(dtype)
    ends = np.cumsum([0, *(len(x) for x, _ in clients)])
    return FederatedDataset(Examples(inputs, targets), np.arange(ends[-1]), ends, ends[1:])


def least_squares(
    sizes: Sequence[int] = (6, 9, 5, 12), features: int = 3, *, groups: int = 0, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw clients' inputs and targets; their Hessians differ, with eigenvalues from 1 to 1.8.

    Args:
        sizes: of the clients.
        features: D.
        groups: how many different coefficients there are; 0: every client has its own.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    best = rng.normal(size=(groups or len(sizes), features)) * 2
    clients = []
    for k, size in enumerate(sizes):
        columns = np.linalg.qr(rng.normal(size=(size, features)))[0]
        turn = np.linalg.qr(rng.normal(size=(features, features)))[0]
        x = columns * np.sqrt(size / 2 * rng.uniform(1.0, 1.8, features)) @ turn
        x = x.astype(np.float32)
        y = x @ best[k % len(best)] + 0.1 * rng.normal(size=size)
        clients.append((x, y.astype(np.float32)))
    return clients


def normal_equations(client: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return A, b, so that the gradient of a client's mean squared error is A w - b."""
    x, y = (part.astype(np.float64) for part in client)
    return 2 * x.T @ x / len(x), 2 * x.T @ y / len(x)


def three_classes(
    sizes: Sequence[int] = (6, 9, 4), features: int = 4
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw clients' inputs and classes; each client lacks one of the three classes."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, features))
    clients = []
    for k, size in enumerate(sizes):
        targets = (np.arange(size) % 2 + k) % 3
        clients.append((centres[targets] + rng.normal(size=(size, features)), targets))
    return clients
