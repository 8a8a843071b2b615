"""HeteroFL: clients train parts of the model that fit their means, narrower in each hidden layer.

Client:  of each hidden layer, take the first r_k of the units with their weights, for its share
         r_k; train this smaller model, whose hidden layers are scaled by 1/r_k   (section 3)
Sum:     the updates, and for each weight the number of clients that have it
Server:  each weight less the mean of its updates, over the clients that have it   (equation 2)

Source: Diao, Ding and Tarokh, 2021, https://arxiv.org/abs/2010.01264
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from annotated_types import Interval, MinLen
from torch import Tensor

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, State, Total, Update
from simfl.algorithms.several import pick
from simfl.algorithms.widths import narrowed
from simfl.models import Batch
from simfl.vector import Vector

_Width = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class HeteroFL(Algorithm):
    """Train models of several widths, each a part of the next wider one.

    Client k has the width ``widths[k mod their number]``. The model is a chain of layers. Smaller
    models are computed as the whole one with zeros for what they lack, so they take as long.
    """

    name: ClassVar[str] = "heterofl"
    objective_over: ClassVar[str | None] = "loss"
    weighted_by: ClassVar[str] = "uniform"
    sends_delta: ClassVar[bool] = False
    widths: Annotated[tuple[_Width, ...], MinLen(1)] = (1.0, 0.5, 0.25)
    """The shares of the units of hidden layers."""
    scaled: bool = True
    """Whether hidden layers are scaled by 1/width in training."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the client's part."""
        parts = [narrowed(local.weights, width, scaled=self.scaled) for width in self.widths]
        part = pick(Vector.stack(parts), local.clients % len(parts))
        objective = partial(self._narrowed, frozenset(part))
        delta = local.train_delta(local.weights, objective=objective, given=(part,))
        has = part.map(lambda t: (t != 0).to(t.dtype))
        return Update(sums={"moved": delta * has, "clients": has}), {}

    def _narrowed(self, shared: Any, model: Any, v: Any, batch: Batch, part: Any) -> Tensor:
        """Return the loss of the smaller model; personal weights are whole."""
        smaller = {name: t * part[name] if name in shared else t for name, t in v.items()}
        loss: Tensor = model.loss(smaller, batch)
        return loss

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Average each weight's updates over the clients that have it."""
        clients = total.sums["clients"].map(lambda t: t.clamp(min=1.0))
        return (total.sums["moved"] / clients).select(here.weights | here.buffers), state
