"""Clients' own models: with known accuracies, as plain torch tunes them, and without a trace."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from client_cases import changed, client_section
from torch.nn import functional as F  # noqa: N812

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm
from simfl.client import ClientHost, ClientRecipe, LocalWork, read_batch
from simfl.data import Examples, FederatedDataset
from simfl.errors import ClientError
from simfl.messages import Broadcast, Chunk, EvaluationChunk
from simfl.models import CrossEntropy, Logistic, data_shape
from simfl.models.model import MetricSums
from simfl.optimizer import Momentum, Optimizer
from simfl.record import PERSONAL, TUNED
from simfl.states import KeptState
from simfl.vector import Vector


@dataclass(frozen=True)
class Own(Algorithm):
    """Evaluates a client with what it keeps; some raise."""

    name: ClassVar[str] = "own-of-a-test"

    failing: tuple[int, ...] = ()

    def personal(self, local: Any) -> Vector:
        """Return what the client keeps; at first, the server's weights."""
        if int(local.clients) in self.failing:
            raise ValueError("no model here")
        own: Vector = local.kept.get("v", local.weights)
        return own


def dataset() -> FederatedDataset:
    """Return three clients with 6, 4 and 5 examples, of which each holds out two."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(15, 2)).astype(np.float32)
    targets = (inputs[:, 0] > 0).astype(np.int64)
    offsets = np.array([0, 6, 10, 15])
    return FederatedDataset(Examples(inputs, targets), np.arange(15), offsets, offsets[1:] - 2)


def recipe(**changes: Any) -> ClientRecipe:
    data = dataset().train
    base = ClientRecipe(
        spec=Logistic(),
        shape=data_shape(data.inputs, data.targets),
        loss=CrossEntropy(),
        metrics=None,
        optimizer=Optimizer(lrate=0.5),
        aggregator=Mean(),
        work=client_section(LocalWork(epochs=1)),
        seed=0,
        algorithm=Own(),
        personal_steps=3,
    )
    return changed(base, **changes)


def signs(sign: float) -> Vector:
    """Return weights whose class is the sign of the first input, or the opposite."""
    weight = torch.tensor([[-sign, 0.0], [sign, 0.0]])
    return Vector({"output.weight": weight, "output.bias": torch.zeros(2)})


def kept(weights: Vector) -> KeptState:
    return KeptState(0, (), (), algorithm={"v": weights})


def evaluated(
    host: ClientHost, broadcast: Broadcast, states: list[KeptState | None], *models: str
) -> list[MetricSums]:
    items = tuple((client,) for client in range(3))
    return host.evaluate_chunk(EvaluationChunk("clients", items, own=models), broadcast, states)


def accuracies(sums: list[MetricSums]) -> list[float]:
    return [one["accuracy"][0] / one["accuracy"][1] for one in sums]


def initial(made: ClientRecipe) -> Broadcast:
    return Broadcast(4, made.build_model().get_weights(), {})


def test_each_client_is_evaluated_with_what_it_keeps() -> None:
    """The server's weights are right on all examples; those of client 1 wrong on all."""
    host = ClientHost(recipe(), dataset())
    broadcast = Broadcast(4, signs(1.0), {})
    states = [None, kept(signs(-1.0)), kept(signs(1.0))]
    assert accuracies(evaluated(host, broadcast, states, PERSONAL)) == [1.0, 0.0, 1.0]
    assert accuracies(evaluated(host, broadcast, [])) == [1.0, 1.0, 1.0]
    assert accuracies(evaluated(host, broadcast, [], PERSONAL)) == [1.0, 1.0, 1.0]


def test_weights_without_some_names_are_completed_by_the_servers() -> None:
    """Client 1 keeps its bias alone, which outweighs all inputs: class 1, whatever the input."""
    host = ClientHost(recipe(), dataset())
    bias = kept(Vector({"output.bias": torch.tensor([-100.0, 100.0])}))
    sums = evaluated(host, Broadcast(4, signs(1.0), {}), [None, bias, None], PERSONAL)
    targets = dataset().train.targets[[8, 9]]
    assert accuracies(sums) == [1.0, targets.mean(), 1.0]


def test_tuning_is_a_loop_of_torch_on_the_clients_training_examples() -> None:
    """Full batches and SGD, from its own weights, or the server's if it keeps none."""
    made, data = recipe(), dataset()
    broadcast, own = initial(made), signs(-0.3)
    sums = evaluated(ClientHost(made, data), broadcast, [None, kept(own), None], PERSONAL, TUNED)
    assert len(sums) == 6
    for client, start in enumerate([broadcast.weights, own, broadcast.weights]):
        module = made.build_model().module
        module.load_state_dict(dict(start.items()))
        batch = read_batch(data.train, data.train_rows(client))
        held = read_batch(data.train, data.evaluation_rows(client))
        losses = [F.cross_entropy(module(held.inputs), held.targets).item()]
        sgd = torch.optim.SGD(module.parameters(), lr=0.5)
        for _ in range(3):
            sgd.zero_grad()
            F.cross_entropy(module(batch.inputs), batch.targets).backward()
            sgd.step()
        losses.append(F.cross_entropy(module(held.inputs), held.targets).item())
        found = [one["loss"][0] / one["loss"][1] for one in sums[2 * client : 2 * client + 2]]
        assert found == pytest.approx(losses, rel=1e-6)
        assert losses[1] < losses[0]


def test_an_evaluation_leaves_no_trace() -> None:
    """A host that has evaluated trains to the bits of one that has not, with what was kept."""
    made = recipe(
        optimizer=Optimizer(lrate=0.1, modules=[Momentum()]), work=LocalWork(batch_size=2)
    )
    data, broadcast = dataset(), initial(recipe())
    chunk = Chunk(4, 0, (0, 1, 2), 3)

    def train(host: ClientHost, states: list[KeptState | None]) -> Any:
        result = host.train_chunk(chunk, broadcast, states)
        (node,) = result.partial.nodes.values()
        assert node is not None
        return node.total, result.states

    hosts = [ClientHost(made, data) for _ in range(2)]
    first = [train(host, [None] * 3)[1] for host in hosts]
    states = [first[0][client].state for client in range(3)]
    before = copy.deepcopy(states)
    generator = torch.get_rng_state()
    sums = evaluated(hosts[0], broadcast, states, PERSONAL, TUNED)
    assert torch.equal(torch.get_rng_state(), generator)
    assert states == before
    again = [train(host, states) for host in hosts]
    assert again[0] == again[1]
    assert evaluated(hosts[1], broadcast, states, PERSONAL, TUNED) == sums


def test_clients_are_evaluated_in_any_order_to_the_same_bits() -> None:
    made, data = recipe(work=LocalWork(batch_size=2)), dataset()
    broadcast, states = initial(made), [None, kept(signs(-0.3)), None]
    host = ClientHost(made, data)
    together = evaluated(host, broadcast, states, PERSONAL, TUNED)
    for client in (2, 0, 1):
        chunk = EvaluationChunk("clients", ((client,),), own=(PERSONAL, TUNED))
        alone = host.evaluate_chunk(chunk, broadcast, [states[client]])
        assert alone == together[2 * client : 2 * client + 2]


def test_a_client_whose_code_raises_is_named_or_has_no_values() -> None:
    made = recipe(algorithm=Own(failing=(1,)))
    broadcast = initial(made)
    with pytest.raises(ClientError) as raised:
        evaluated(ClientHost(made, dataset()), broadcast, [], PERSONAL, TUNED)
    assert str(raised.value) == (
        "client 1 failed in its evaluation after round 3: ValueError: no model here"
    )
    assert "no model here" in raised.value.client_traceback
    dropping = ClientHost(changed(made, on_failure="drop"), dataset())
    sums = evaluated(dropping, broadcast, [], PERSONAL)
    assert sums[1] == {"loss": (0.0, 0.0), "accuracy": ()}
    assert all(one["loss"][1] == 2 for one in (sums[0], sums[2]))
