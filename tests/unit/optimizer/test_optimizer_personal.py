"""Weights that clients keep for themselves: modules that share variables do not see them."""

from __future__ import annotations

import pytest
import torch
from toy_models import vector

from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.states import KeptState
from simfl.vector import Vector


class Weights:
    """The weights of a client, or of a stack."""

    def __init__(self, weights: Vector) -> None:
        self.weights = weights

    def get_weights(self, trainable: bool) -> Vector:
        return self.weights.clone()

    def apply_updates(self, updates: Vector) -> None:
        self.weights = self.weights + updates


def scaffold(*others: str) -> Optimizer:
    modules = ["scaffold-client", *others]
    return Optimizer(0.5, regularizers=["ridge"], modules=modules).with_personal(["own"])


def test_scaffold_corrects_shared_weights_only() -> None:
    """Ridge adds 0.02 w before; c is 1 and c_i 3: shared 2 + 0 - 3 + 1 = 0, own 4 + 0.02 * 8."""
    kept = KeptState(0, ({"own": vector(w=[3.0]), "is_new": torch.tensor(False)},), ({},))
    local = LocalOptimizer(scaffold(), stacked=False)
    aux = {"scaffold": {"state": vector(w=[1.0])}}
    local.begin((5,), round=2, kept=[kept], aux=aux)
    model = Weights(vector(own=[8.0], w=[0.0]))
    local.apply_gradients(model, vector(own=[4.0], w=[2.0]))
    assert model.weights.names == ("own", "w")
    assert model.weights["w"].item() == 0.0
    assert model.weights["own"].item() == pytest.approx(8.0 - 0.5 * 4.16)
    sent = local.collect_aux_var()["scaffold"]
    assert sent == {"delta": vector(w=[2.0 - 3.0]), "num_new": 0.0}
    (state,) = local.end([1])
    assert state is not None
    assert state.modules[0]["own"] == vector(w=[2.0])


def test_a_stack_does_what_its_clients_do_alone() -> None:
    kept = [
        None,
        KeptState(0, ({"own": vector(w=[3.0]), "is_new": torch.tensor(False)}, {}), ({},)),
    ]
    aux = {"scaffold": {"state": vector(w=[1.0])}}
    starts = [vector(own=[8.0], w=[0.5]), vector(own=[-2.0], w=[0.25])]
    steps = [[vector(own=[4.0], w=[2.0]), vector(own=[1.0], w=[3.0])] for _ in starts]
    ends, sent = [], []
    for client, (state, start, gradients) in enumerate(zip(kept, starts, steps, strict=True)):
        local = LocalOptimizer(scaffold("momentum"), stacked=False)
        local.begin((client,), round=1, kept=[state], aux=aux)
        model = Weights(start)
        for own in gradients:
            local.apply_gradients(model, own)
        ends.append(model.weights)
        sent.append(local.collect_aux_var()["scaffold"]["delta"])
    stack = LocalOptimizer(scaffold("momentum"), stacked=True)
    stack.begin((0, 1), round=1, kept=kept, aux=aux, like=starts[0])
    model = Weights(Vector.stack(starts))
    for pair in zip(*steps, strict=True):
        stack.apply_gradients(model, Vector.stack(pair))
    assert model.weights == Vector.stack(ends)
    assert stack.collect_aux_var()["scaffold"]["delta"] == Vector.stack(sent)


def test_a_training_of_personal_weights_alone_passes_such_modules_by() -> None:
    local = LocalOptimizer(scaffold(), stacked=False)
    local.begin((0,), round=1, kept=[None], aux={})
    model = Weights(vector(own=[0.0]))
    local.apply_gradients(model, vector(own=[4.0]))
    assert model.weights == vector(own=[-2.0])


def test_personal_names_outlive_a_change_of_the_modules() -> None:
    optimizer = scaffold()
    optimizer.modules.append("momentum")
    optimizer.regularizers = []
    assert optimizer.pipeline.personal == {"own"}
