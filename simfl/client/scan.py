"""Scan: a pass over batches whose steps are an algorithm's own.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them. Without a
stack, there is no such axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from simfl.client.personal import PersonalWeights
from simfl.client.steps import Step, Steps
from simfl.client.trainee import Trainee
from simfl.models import Batch
from simfl.models.model_function import Objective
from simfl.optimizer.state import join_states
from simfl.states import State
from simfl.vector import Vector, rows_of


@dataclass(eq=False, repr=False)
class Scan:
    """A pass of one client, or of a stack of them."""

    trainee: Trainee
    """They; it has the weights that the steps do not train."""
    personal: PersonalWeights
    plan: Steps
    loss_given: Mapping[str, Any]
    """What the scenario's loss needs besides; of all C clients."""
    losses: list[Tensor] = field(default_factory=list, init=False)
    """[A] of each step that has computed gradients, its first loss."""
    _step: Step | None = field(default=None, init=False)
    _has_loss: bool = field(default=False, init=False)
    """Whether the step has one."""

    def run(
        self, step: Callable[..., State], carry: State, given: tuple[Any, ...], num_clients: int
    ) -> State:
        """Run (carry, batch, *given) -> carry for each step; return the last carry.

        Args:
            step: what to do.
            carry: of C clients, in their own order.
            given: likewise.
            num_clients: C.
        """
        order, active, ended = self.plan.order, num_clients, []
        carry, given = order.sort(carry), order.sort(given)
        with self.plan.seeded():
            for current in self.plan:
                if current.active < active:
                    active = current.active
                    ended.append(rows_of(carry, slice(active, None)))
                    carry, given = rows_of((carry, given), slice(active))
                    self.trainee.narrow(active)
                self._step, self._has_loss = current, False
                carry = step(carry, current.batch, *given)
        self.trainee.narrow(num_clients)
        return order.restore(join_states([carry, *reversed(ended)]) if ended else carry)

    def gradients(
        self, weights: Vector, batch: Batch, objective: Objective | None, given: tuple[Any, ...]
    ) -> Vector:
        """Return the gradients of a batch's loss, in a step."""
        assert self._step is not None, "the pass has not begun"
        place = self.plan.order, self._step.active
        at = self.personal.fill_in(weights, *place)
        given = self.personal.fill_in_given(given, *place)
        step = self._step._replace(batch=batch)
        loss, gradients = self.trainee.differentiate(step, objective, given, self.loss_given, at)
        if not self._has_loss:
            self.losses.append(loss)
            self._has_loss = True
        return self.personal.without(gradients)
