"""FedProto: clients exchange the mean features of each class, and no weights.

Init: v_k = w; no class has a prototype P_j yet. Client: from its own v_k, minimise f_k(v) + lambda
mean of (z - P_y)², for the features z of an example of class y that has one (equations 6 to 8).
Send: the mean features of each class that the client has; keep v_k. Server: P_j = their mean over
the clients; that of a class that none had stays. Personal: v_k. The paper weights the server's mean
by examples; its authors' code does not, and neither does this.

Source: Tan et al., 2022, Algorithm 1, https://arxiv.org/abs/2105.00243
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from simfl.algorithms.algorithm import NO_GRADIENT, Algorithm, Local, ServerSide, Total, Update
from simfl.algorithms.counting import class_means
from simfl.component import NonNegative
from simfl.errors import ConfigError
from simfl.models import Batch, ModelFunction
from simfl.models.per_example import weighted_mean
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class FedProto(Algorithm):
    """Keep all weights; pull features of examples to the mean features of their class."""

    name: ClassVar[str] = "fedproto"
    objective_over: ClassVar[str | None] = "examples"
    weighted_by: ClassVar[str] = "uniform"
    sends_delta: ClassVar[bool] = False
    trains_server: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = NO_GRADIENT
    strength: NonNegative = 1.0
    """lambda: how strongly features are pulled."""
    layer: str = "output"
    """The linear layer whose inputs are the features, and whose outputs are the classes."""

    @property
    def needs_classes(self) -> bool:
        """Whether outputs must be logits: yes."""
        return True

    def init(self, weights: Vector) -> State:
        """Start at the initial weights."""
        return {"v": weights}

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Know no prototype: V classes of F features, as the layer's weight has them."""
        if f"{self.layer}.weight" not in weights:
            raise ConfigError(f"algorithm: fedproto needs a linear layer, not {self.layer!r}")
        prototypes_VF = torch.zeros_like(weights[f"{self.layer}.weight"])
        return {"known": Vector({"means": prototypes_VF, "are": prototypes_VF[:, 0]})}

    def send(self, state: State) -> State:
        """Send the prototypes."""
        return state

    def client(self, local: Local) -> tuple[Update, State]:
        """Train one's own weights, and send the means of their features."""
        known = (local.received["known"],)
        v = local.train(local.kept["v"], objective=self.objective, given=known)
        means, has = class_means(local, v, layer=self.layer)
        return Update(sums={"means": means, "are": has}), {"v": v}

    def objective(self, model: ModelFunction, v: Any, batch: Batch, known: Any) -> Tensor:
        """Return the loss and strength times the squared distance to the prototypes."""
        outputs, z = model.features(v, batch.inputs, self.layer)
        if len(known["means"]) != outputs.shape[-1]:
            raise ConfigError(f"fedproto needs the layer that gives classes, not {self.layer!r}")
        apart = (z - known["means"][batch.targets]).square().mean(dim=1)
        pull = weighted_mean(apart * known["are"][batch.targets], batch.sample_weights)
        loss: Tensor = model.loss_of(outputs, batch)
        return loss + self.strength * pull

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Average the prototypes of each class."""
        known, clients = state["known"], total.sums["are"]
        means = total.sums["means"] / clients.clamp(min=1)[:, None]
        means = torch.where(clients[:, None] > 0, means, known["means"])
        are = torch.maximum(known["are"], (clients > 0).to(means.dtype))
        return Vector({}), {"known": Vector({"means": means, "are": are})}

    def personal(self, local: Local) -> Vector:
        """Return the client's own weights."""
        v: Vector = local.kept["v"]
        return v
