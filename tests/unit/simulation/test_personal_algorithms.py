"""model.personal under algorithms, which do not see personal weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from test_personal_weights import CLIENTS, LRATE, kept_states, scenario
from torch import Tensor

import simfl
from simfl.algorithms import Algorithm, Local, ServerSide, Total, Update
from simfl.errors import ScenarioError
from simfl.simulation import build
from simfl.states import State
from simfl.vector import Vector


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@dataclass(frozen=True)
class Dynamic(Algorithm):
    """FedDyn (Acar et al., 2021, algorithm 1), as docs/algorithms.md would have it."""

    name: ClassVar[str] = "test-dynamic"
    alpha: float = 0.5

    def init(self, weights: Vector) -> State:
        assert weights.names == ("body.weight",)
        return {"g": weights.zeros_like()}

    def client(self, local: Local) -> tuple[Update, State]:
        w, g = local.weights, local.kept["g"]
        v = local.train(w, add=lambda v, w, g: (v - w) * self.alpha - g, given=(w, g))
        return Update(w - v, weight=1.0), {"g": g - (v - w) * self.alpha}

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        return {"h": weights.zeros_like()}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        h = state["h"] + total.delta * (self.alpha * total.clients / here.population)
        return total.delta + h / self.alpha, {"h": h}


@pytest.mark.slow
def test_feddyn_with_personal_weights_finds_the_joint_optimum(tmp_path: Path) -> None:
    """Least squares: min over u and all p_k of the sum of f_k(u, p_k), by numpy's lstsq.

    If the personal weights were pulled as the shared ones are, they would stop where their first
    round ends.
    """
    chosen = scenario("head", algorithm="test-dynamic", rounds=400)
    chosen["client"] |= {"per_round": CLIENTS, "steps": 20, "optimizer": {"lrate": 0.1}}
    chosen["checkpoint"] = {"every": 400}
    result = simfl.run(chosen, out=tmp_path / "run", backend="inline")
    data = build(simfl.load_scenario(chosen)).dataset
    blocks, targets = [], []
    for client in range(CLIENTS):
        rows = data.train_rows(client)
        inputs = data.train.inputs[rows].astype(np.float64)
        row = np.zeros((len(rows), 2 + 2 * CLIENTS))
        row[:, :2], row[:, 2 + 2 * client : 4 + 2 * client] = inputs[:, :2], inputs[:, 2:]
        blocks.append(row / np.sqrt(len(rows)))  # f_k is the mean over a client's examples
        targets.append(data.train.targets[rows] / np.sqrt(len(rows)))
    optimum = np.linalg.lstsq(np.concatenate(blocks), np.concatenate(targets), rcond=None)[0]
    np.testing.assert_allclose(result.weights["body.weight"][0], optimum[:2], atol=1e-8)
    for client, state in kept_states(tmp_path / "run").items():
        assert state.personal is not None
        own = state.personal["head.weight"].numpy()[0]
        np.testing.assert_allclose(own, optimum[2 + 2 * client : 4 + 2 * client], atol=1e-8)


@dataclass(frozen=True)
class Everything(Algorithm):
    """Uses each verb of Local, other weights than the server's, and other work than the scenario's.

    Whatever it sees, has the names of shared weights.
    """

    name: ClassVar[str] = "test-everything"

    def init(self, weights: Vector) -> State:
        return {"last": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        w, last = local.weights, local.kept["last"]
        before = local.loss(w)
        average = (w + last) * 0.5

        def near(model: Any, v: Any, batch: Any, last: Any) -> Tensor:
            distance = model(v, batch.inputs) - model.predict(last, batch.inputs)
            return model.loss(v, batch) + 0.5 * (distance**2).mean()

        half = local.train(average, objective=near, given=(last,), phase="half", steps=2)

        def descend(carry: State, batch: Any, w: Vector) -> State:
            v = carry["v"]
            gradients = local.gradients(v, batch, objective=near, given=(w,))
            return {"v": v - gradients * 0.01}

        fine = local.scan(descend, {"v": half}, given=(w,), phase="fine", epochs=1)["v"]
        end = local.train(fine, add=lambda v, w: (v - w) * 0.1, given=(w,), only=["body.weight"])
        change = local.train_delta(end, phase="more", epochs=2)
        counts = local.total(_count, end)
        seen = {v.names for v in (w, last, half, fine, end, change)}
        assert seen == {("body.weight",)}
        sums = {"before": before, "change": change, "count": counts["n"]}
        assert "head.weight" not in counts
        return Update(w - end, sums=sums), {"last": end}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        assert total.sums["change"].names == ("body.weight",)
        return total.delta, state


def _count(model: Any, batch: Any, weights: Any) -> dict[str, Tensor]:
    assert set(weights) == {"body.weight", "head.weight"}
    per_weight = {name: (batch.sample_weights.sum() * w).sum() for name, w in weights.items()}
    return {"n": (model.per_example(weights, batch) * batch.sample_weights).sum(), **per_weight}


def test_a_stack_does_what_its_clients_do_alone_with_every_verb(tmp_path: Path) -> None:
    """Sums of products in another order: 1e-12 in float64; batches of two are exact in float32."""

    def ended(stack: int) -> tuple[simfl.Result, dict[int, Any]]:
        work = {"epochs": 1, "batch_size": 2, "per_round": 4, "steps": None, "stack": stack}
        optimizer = {"lrate": LRATE, "modules": ["momentum", "scaffold-client"]}
        server = {"optimizer": {"modules": ["scaffold-server"]}}
        chosen = scenario("head", algorithm="test-everything", server=server)
        chosen["client"] |= work | {"optimizer": optimizer}
        result = simfl.run(chosen, out=tmp_path / str(stack), backend="inline")
        return result, kept_states(tmp_path / str(stack))

    (alone, kept_alone), (stacked, kept_stacked) = ended(1), ended(4)
    np.testing.assert_allclose(
        stacked.weights["body.weight"], alone.weights["body.weight"], atol=1e-12
    )
    for client, state in kept_alone.items():
        other = kept_stacked[client]
        assert float((state.personal - other.personal).norm()) < 1e-12
        assert float((state.algorithm["last"] - other.algorithm["last"]).norm()) < 1e-12


def test_an_algorithm_without_the_optimizer_cannot_train_personal_weights() -> None:
    @dataclass(frozen=True)
    class OnItsOwn(Algorithm):
        name: ClassVar[str] = "test-on-its-own"
        uses_optimizer: ClassVar[bool] = False

    with pytest.raises(ScenarioError, match="which algorithm 'test-on-its-own' does not use"):
        simfl.load_scenario(scenario("head", algorithm="test-on-its-own"))
