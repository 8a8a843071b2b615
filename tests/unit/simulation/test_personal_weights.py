"""model.personal: weights that each client keeps for itself, under any algorithm.

The references are the papers' rounds in numpy, on least squares with full batches and two blocks
of weights, of which clients share one: FedPer and LG-FedAvg (which block is shared is all that they
differ in), also with SCAFFOLD, a server's momentum, and clients' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simfl
from simfl.checkpoint import latest_checkpoint
from simfl.errors import ScenarioError
from simfl.optimizer import Context, OptiModule, State
from simfl.simulation import Simulation, build
from simfl.states import KeptState, load_state, open_storage
from simfl.states.shards import StateFile
from simfl.vector import Vector

CLIENTS, COHORT, ROUNDS, STEPS, LRATE = 6, 3, 5, 3, 0.05
WIDTH = 2


class TwoBlocks(nn.Module):
    """Predicts by the sum of two linear functions, each of one half of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(WIDTH, 1, bias=False, dtype=torch.float64)
        self.head = nn.Linear(WIDTH, 1, bias=False, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one number for each example."""
        left, right = inputs.double().split(WIDTH, dim=1)
        return (self.body(left) + self.head(right)).squeeze(1)


def examples(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return rows that are drawn with the seed."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(50, 2 * WIDTH))
    return inputs, inputs @ rng.normal(size=2 * WIDTH) + rng.normal(size=50)


def scenario(personal: str = "head", **changes: Any) -> dict[str, Any]:
    """Return a scenario of full batches and half of the clients in a round."""
    client = {
        "per_round": COHORT,
        "steps": STEPS,
        "batch_size": None,
        "optimizer": {"lrate": LRATE},
        "stack": 1,
    }
    base: dict[str, Any] = {
        "rounds": ROUNDS,
        "seed": 1,
        "data": {
            "source": "python",
            "path": f"{__name__}:examples",
            "partition": {"kind": "quantity", "alpha": 2.0, "clients": CLIENTS},
        },
        "model": {
            "kind": "python",
            "path": f"{__name__}:TwoBlocks",
            "personal": [personal],
            "loss": "mse",
        },
        "client": client | changes.pop("client", {}),
        "checkpoint": {"every": 1},
    }
    return base | changes


@dataclass(frozen=True)
class Stumble(OptiModule):
    """Makes the gradients of a client infinite in a round."""

    name: ClassVar[str] = "test-stumble"

    client: int
    round: int

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        stumbles = (self.client, self.round) == (context.clients[0], context.round)
        return gradients * (float("inf") if stumbles else 1.0), state


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


Blocks = dict[str, np.ndarray[Any, Any]]


class Reference:
    """Rounds in numpy: which blocks are shared, which modules correct them."""

    def __init__(self, simulation: Simulation, *, scaffold: bool = False, beta: float = 0.0):
        self.simulation, self.scaffold, self.beta = simulation, scaffold, beta
        weights = simulation.server.build_model().get_weights()
        start = {name.split(".")[0]: weights[name].numpy()[0].copy() for name in weights}
        (own,) = (name.split(".")[0] for name in simulation.client.personal)
        self.own = own
        self.other = next(name for name in start if name != own)
        self.shared = start[self.other]
        self.personal = {client: start[own].copy() for client in range(CLIENTS)}
        self.velocity = np.zeros(WIDTH)
        self.variates = np.zeros((CLIENTS, WIDTH))

    def errors(self, client: int, blocks: Blocks) -> tuple[Any, Any]:
        data = self.simulation.dataset
        rows = data.train_rows(client)
        inputs, targets = (
            array[rows].astype(np.float64) for array in (data.train.inputs, data.train.targets)
        )
        return inputs, inputs @ np.concatenate([blocks["body"], blocks["head"]]) - targets

    def loss(self, client: int, blocks: Blocks) -> float:
        return float((self.errors(client, blocks)[1] ** 2).mean())

    def gradient(self, client: int, blocks: Blocks) -> Blocks:
        inputs, errors = self.errors(client, blocks)
        both = 2.0 * inputs.T @ errors / len(errors)
        return {"body": both[:WIDTH], "head": both[WIDTH:]}

    def run_round(self, round: int, *, dropped: tuple[int, ...] = ()) -> None:
        total, weight = np.zeros(WIDTH), 0.0
        mean_variate, changes = self.variates.mean(axis=0), np.zeros((CLIENTS, WIDTH))
        for client in self.simulation.plan_round(round).clients:
            if client in dropped:
                continue
            blocks = {self.other: self.shared.copy(), self.own: self.personal[client].copy()}
            summed = np.zeros(WIDTH)
            for _ in range(STEPS):
                gradient = self.gradient(client, blocks)
                summed += gradient[self.other]
                if self.scaffold:
                    gradient[self.other] = (
                        gradient[self.other] - self.variates[client] + mean_variate
                    )
                blocks = {name: blocks[name] - LRATE * gradient[name] for name in blocks}
            changes[client] = summed / STEPS - self.variates[client]
            num = len(self.simulation.dataset.train_rows(client))
            total, weight = total + num * (self.shared - blocks[self.other]), weight + num
            self.personal[client] = blocks[self.own]
        self.variates = self.variates + changes
        self.velocity = self.beta * self.velocity + total / weight
        self.shared = self.shared - self.velocity


def kept_states(out: Path) -> dict[int, KeptState]:
    """Return what the clients of a run have kept, by its last checkpoint."""
    location = str(out / "checkpoints")
    checkpoint = latest_checkpoint(open_storage(location)).checkpoint
    assert checkpoint is not None
    files = checkpoint.states.items()
    return {client: load_state(StateFile(location, name, client)) for client, name in files}


SCAFFOLD: dict[str, Any] = {
    "client": {"optimizer": {"lrate": LRATE, "modules": ["scaffold-client"]}},
    "server": {"optimizer": {"modules": ["scaffold-server"]}},
}
MOMENTUM: dict[str, Any] = {"server": {"optimizer": {"modules": [["momentum", {"beta": 0.5}]]}}}


@pytest.mark.parametrize(
    ("personal", "changes", "how"),
    [
        ("head", {}, {}),  # FedPer
        ("body", {}, {}),  # LG-FedAvg
        ("head", SCAFFOLD, {"scaffold": True}),
        ("body", MOMENTUM, {"beta": 0.5}),
    ],
)
def test_rounds_are_those_of_the_papers(
    personal: str, changes: dict[str, Any], how: dict[str, Any], tmp_path: Path
) -> None:
    chosen = scenario(personal, **changes)
    result = simfl.run(chosen, out=tmp_path / "run", backend="inline")
    reference = Reference(build(simfl.load_scenario(chosen)), **how)
    for round in range(1, ROUNDS + 1):
        reference.run_round(round)
    shared, states = result.weights[f"{reference.other}.weight"][0], kept_states(tmp_path / "run")
    np.testing.assert_allclose(shared, reference.shared, rtol=0, atol=1e-10)
    assert states
    for client, state in states.items():
        assert state.personal is not None
        own = state.personal[f"{personal}.weight"].numpy()[0]
        np.testing.assert_allclose(own, reference.personal[client], rtol=0, atol=1e-10)
    # Two weights of 8 bytes for each client; SCAFFOLD's variables have as many, from round 2 on
    # down, too.
    kinds = 2 if "scaffold" in how else 1
    assert [record["received_bytes"] for record in result.history] == [COHORT * kinds * 16] * ROUNDS
    sent = [COHORT * (kinds if round else 1) * 16 for round in range(ROUNDS)]
    assert [record["sent_bytes"] for record in result.history] == sent


def test_the_final_weights_have_the_initial_values_of_personal_ones(tmp_path: Path) -> None:
    chosen = scenario("head")
    result = simfl.run(chosen, out=tmp_path / "run", backend="inline")
    initial = build(simfl.load_scenario(chosen)).server.build_model().get_weights()
    assert list(result.weights) == ["body.weight", "head.weight"]
    assert (result.weights["head.weight"] == initial["head.weight"].numpy()).all()


def test_clients_are_evaluated_with_their_own_weights_and_new_ones_with_the_initial(
    tmp_path: Path,
) -> None:
    """The mean squared errors of the reference, before and after two more steps of both blocks."""
    evaluation = {"clients_every": 2, "personal_steps": 2}
    chosen = scenario("head", rounds=2, evaluation=evaluation)
    result = simfl.run(chosen, out=tmp_path / "run", backend="inline")
    simulation = build(simfl.load_scenario(chosen))
    reference = Reference(simulation)
    initial = reference.personal[0]
    reference.run_round(1)
    reference.run_round(2)
    common, own, tuned = [], [], []
    for client in range(CLIENTS):
        blocks = {"body": reference.shared, "head": reference.personal[client]}
        common.append(reference.loss(client, blocks | {"head": initial}))
        own.append(reference.loss(client, blocks))
        for _ in range(2):
            gradient = reference.gradient(client, blocks)
            blocks = {name: blocks[name] - LRATE * gradient[name] for name in blocks}
        tuned.append(reference.loss(client, blocks))
    last = result.history[-1]
    for key, losses in (("", common), ("personal_", own), ("tuned_", tuned)):
        assert last[f"client_{key}loss"] == pytest.approx(np.mean(losses), rel=1e-9), key


def test_a_stack_gives_the_numbers_of_one_client_at_a_time(tmp_path: Path) -> None:
    """Where new clients meet some that have kept weights, and all have other numbers of steps.

    Sums of products in another order: 1e-12 in float64. A ragged batch of two has a single example,
    whose weight, 2, float32 holds exactly.
    """
    work = {"epochs": 2, "batch_size": 2, "per_round": 4, "steps": None}
    optimizer = {"lrate": LRATE, "modules": ["scaffold-client", "momentum"]}
    ends = []
    for stack in (1, 4):
        changes = {"client": {**work, "optimizer": optimizer, "stack": stack}}
        chosen = scenario("head", **changes, server=SCAFFOLD["server"])
        result = simfl.run(chosen, out=tmp_path / str(stack), backend="inline")
        ends.append((result, kept_states(tmp_path / str(stack))))
    (alone, kept_alone), (stacked, kept_stacked) = ends
    for name in alone.weights:
        np.testing.assert_allclose(stacked.weights[name], alone.weights[name], rtol=0, atol=1e-12)
    assert kept_alone.keys() == kept_stacked.keys()
    for client, state in kept_alone.items():
        other = kept_stacked[client]
        assert state.personal is not None
        assert other.personal is not None
        assert float((state.personal - other.personal).norm()) < 1e-12
    for one, other in zip(alone.history, stacked.history, strict=True):
        for key in ("sent_bytes", "received_bytes", "aux_bytes", "clients"):
            assert one[key] == other[key], key


def test_a_client_that_is_dropped_retains_its_former_weights(tmp_path: Path) -> None:
    chosen = scenario("head")
    simulation = build(simfl.load_scenario(chosen))
    again = set(simulation.plan_round(1).clients) & set(simulation.plan_round(2).clients)
    stumbling = min(again)
    module = ["test-stumble", {"client": stumbling, "round": 2}]
    client = {"on_nonfinite": "drop", "optimizer": {"lrate": LRATE, "modules": [module]}}
    dropping = scenario("head", client=client, rounds=2)
    result = simfl.run(dropping, out=tmp_path / "run", backend="inline")
    assert [record["dropped"] for record in result.history] == [0, 1]
    reference = Reference(simulation)
    reference.run_round(1)
    reference.run_round(2, dropped=(stumbling,))
    for client, state in kept_states(tmp_path / "run").items():
        assert state.personal is not None
        own = state.personal["head.weight"].numpy()[0]
        np.testing.assert_allclose(own, reference.personal[client], rtol=0, atol=1e-10)


class Batched(nn.Module):
    """A network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * WIDTH, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs).squeeze(1)


def test_fedbn_keeps_each_clients_norms_and_averages(tmp_path: Path) -> None:
    """Against torch: one client after another on copies of one module (FedBN, algorithm 1)."""
    chosen = scenario("norm")
    chosen["model"]["path"] = f"{__name__}:Batched"
    result = simfl.run(chosen, out=tmp_path / "run", backend="inline")
    simulation = build(simfl.load_scenario(chosen))
    module = simulation.client.build_model().module
    norms = [f"layers.1.{n}" for n in ("weight", "bias")]
    stats = [f"layers.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")]
    assert simulation.client.personal == (*norms, *stats)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    own = {client: {n: start[n].clone() for n in (*norms, *stats)} for client in range(CLIENTS)}
    shared = {name: value for name, value in start.items() if name not in own[0]}
    data = simulation.dataset
    for round in range(1, ROUNDS + 1):
        ends, weights = [], []
        for client in simulation.plan_round(round).clients:
            module.load_state_dict({**shared, **own[client]})
            optimizer = torch.optim.SGD(module.parameters(), lr=LRATE)
            rows = data.train_rows(client)
            inputs = torch.from_numpy(data.train.inputs[rows])
            targets = torch.from_numpy(data.train.targets[rows])
            for _ in range(STEPS):
                optimizer.zero_grad()
                ((module.train()(inputs) - targets) ** 2).mean().backward()
                optimizer.step()
            end = {name: value.clone() for name, value in module.state_dict().items()}
            own[client] = {name: end[name] for name in own[client]}
            ends.append(end)
            weights.append(len(rows))
        shared = {
            name: sum(w * end[name] for w, end in zip(weights, ends, strict=True)) / sum(weights)
            for name in shared
        }
    for name, value in shared.items():
        np.testing.assert_allclose(result.weights[name], value, rtol=0, atol=1e-6)
    for client, state in kept_states(tmp_path / "run").items():
        assert state.personal is not None
        for name in (*norms, *stats):
            np.testing.assert_allclose(state.personal[name], own[client][name], rtol=0, atol=1e-6)


def test_a_stack_of_clients_with_batch_norm_is_refused_by_name() -> None:
    chosen = scenario("norm", client={"stack": 4})
    chosen["model"]["path"] = f"{__name__}:Batched"
    (note,) = build(simfl.load_scenario(chosen)).notes
    assert "layer 'layers.1' (BatchNorm1d) works with statistics of the batch" in note


def test_personal_weights_need_a_model_that_shares_some() -> None:
    chosen = scenario("*")
    with pytest.raises(ScenarioError, match=r"model.personal: names every weight that is trained"):
        build(simfl.load_scenario(chosen))
