"""What a model comes to on some examples does not depend on what a host has evaluated before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from simfl.aggregation import Mean
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, EvaluationChunk
from simfl.models import PythonModel, data_shape
from simfl.models.losses import as_loss
from simfl.optimizer import Optimizer
from tests.unit.client.client_cases import client_section


class Writes(nn.Module):
    """Writes to a weight, and puts another tensor in place of a buffer, with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.layer.weight.data.mul_(0.5)
        self.calls = self.calls + 1
        return self.layer(inputs) / self.calls


def test_a_module_that_writes_to_its_weights_is_evaluated_on_each_item_as_on_the_first() -> None:
    inputs = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    offsets = np.arange(0, 13, 4)
    examples = Examples(inputs, np.arange(12) % 2)
    data = FederatedDataset(examples, np.arange(12), offsets, offsets[1:])
    recipe = ClientRecipe(
        spec=PythonModel(f"{__name__}:Writes"),
        shape=data_shape(inputs, examples.targets),
        loss=as_loss("cross-entropy"),
        metrics=(),
        optimizer=Optimizer(lrate=0.1),
        aggregator=Mean(),
        work=client_section(LocalWork()),
        seed=0,
    )
    broadcast = Broadcast(1, recipe.build_model().get_weights(), {})
    together, *alone = (
        ClientHost(recipe, data).evaluate_chunk(EvaluationChunk("clients", items), broadcast)
        for items in (((0,), (1,), (2,)), ((0,),), ((1,),), ((2,),))
    )
    assert together == [sums for one in alone for sums in one]
