"""FedDF: the server distils the clients' models into one, on public examples (``data.public``).

Client:  train w_k from w
Send:    w - w_k, and w_k itself: the server holds as many models as there are clients in a round
Server:  start from the mean of the w_k; then take steps on
         KL(softmax(mean over k of the logits of w_k), softmax(the logits of w))
         over public examples, whose targets are not used     (Algorithm 1, line 8; AVGLOGITS)

Source: Lin, Kong, Stich and Jaggi, 2020, Algorithm 1, https://arxiv.org/abs/2006.07242
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.func import vmap
from torch.nn.functional import kl_div

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, State, Total, Update
from simfl.component import Count, Positive
from simfl.models import Batch, ModelFunction
from simfl.models.per_example import mean_over_axes, weighted_mean
from simfl.optimizer import Optimizer
from simfl.vector import Keyed, Vector


@dataclass(frozen=True)
class FedDF(Algorithm):
    """Let the server train on the mean of all clients' predictions for public examples."""

    name: ClassVar[str] = "feddf"
    needs_public: ClassVar[bool] = True
    objective_over: ClassVar[str | None] = "examples"
    steps: Count = 100
    """The server's steps in each round, on batches of ``client.batch_size``."""
    lrate: Positive = 1e-3
    """The learning rate of the server's Adam."""

    @property
    def needs_classes(self) -> bool:
        """Whether outputs must be logits: yes."""
        return True

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and send the model itself, too."""
        end = local.train(local.weights)
        return Update(local.weights - end, sums={"models": Keyed(local.clients, end)}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Distil the clients' models into their mean."""
        assert here.public is not None, "the scenario was checked for public examples"
        mean, given = here.weights - total.delta, (total.sums["models"].values,)
        adam = Optimizer(self.lrate, modules=["adam"])
        end = here.public.train(
            mean, objective=self.objective, given=given, steps=self.steps, optimizer=adam
        )
        return here.weights - end.select(here.weights), state

    def objective(self, model: ModelFunction, v: Any, batch: Batch, models: Any) -> Tensor:
        """Return the divergence of the clients' mean prediction from the model's."""
        logits = vmap(lambda one: model.predict(one, batch.inputs))(models)
        teacher = logits.mean(dim=0).softmax(-1)
        students: Tensor = model(v, batch.inputs).log_softmax(-1)
        divergence = mean_over_axes(kl_div(students, teacher, reduction="none").sum(-1))
        return weighted_mean(divergence, batch.sample_weights)
