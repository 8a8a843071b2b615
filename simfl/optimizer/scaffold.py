"""SCAFFOLD: control variates that correct the drift of clients whose data differ.

In this file c_i is a client's control variate, c the server's, the mean of the population's,
g are gradients, K counts the steps of a round, and N clients.

Source: Karimireddy et al., 2020, Algorithm 1 with option II, https://arxiv.org/abs/1910.06378
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from simfl.component import Count
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, State
from simfl.optimizer.state import move_beside, with_axes_of
from simfl.vector import Vector


@dataclass(frozen=True)
class ScaffoldClient(OptiModule):
    """The clients' side of SCAFFOLD.

    Init: c_i = c = 0. Receive: c; what c_i⁺ was becomes c_i. Step: out g - c_i + c.
    Send: c_i⁺ - c_i, where c_i⁺ is the mean of the g of the steps since variables last arrived;
    and 1 if the client takes part for the first time, else 0.

    With plain SGD that mean is (x - y_i) / (K lrate) - (c - c_i), where x are the weights before
    the steps and y_i those after them, as in the paper, so a client that is trained alone needs no
    sum of the g. Rounding errors of x - y_i only matter with rates so small that a step hardly
    changes a weight.

    The g that it sums are those it is given: it comes first in the list of modules. Without
    variables from the server (``scaffold-server``) it takes c = c_i, which corrects nothing.
    """

    name: ClassVar[str] = "scaffold-client"
    aux_name: ClassVar[str] = "scaffold"
    takes_read_only: ClassVar[bool] = True
    owns_aux: ClassVar[bool] = True

    def init(self, like: Vector) -> State:
        """Return the state of a client that has not taken part yet."""
        device = like.tensors[0].device
        zeros = like.map(_zeros).as_read_only()
        return {
            "own": zeros,
            "correction": zeros,  # c - c_i
            "total": zeros,
            "steps": torch.zeros((), dtype=torch.int64, device=device),
            "is_new": torch.ones((), dtype=torch.bool, device=device),
        }

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the corrected gradients, and add the raw ones up if their mean is not told."""
        new = {**state, "steps": state["steps"] + 1}
        if not context.knows_mean:
            total: Vector = state["total"]
            new["total"] = total.add_(gradients) if context.owns_state else total + gradients
        correction: Vector = state["correction"]
        owns = context.owns_gradients
        return gradients.add_(correction) if owns else gradients + correction, new

    def end_steps(self, state: State, mean: Vector) -> State:
        """Return the state with c_i⁺, from the mean of the corrected gradients, and its change."""
        correction: Vector = state["correction"]
        known = mean.sub_(correction)
        # The correction is not used any more, and fresh memory costs more than the numbers.
        change = _difference(known, state["own"], into=correction)
        return {**state, "next": known, "change": change}

    def collect_aux_var(self, state: State) -> AuxVar | None:
        """Return the change of c_i, and whether the client is new; None if no step was run.

        Of a stack, clients without a step add nothing to the sums over it.
        """
        if "steps" not in state or not bool((state["steps"] > 0).any()):
            warnings.warn(
                f"{self.name}: no step was run since the server's variables arrived; "
                "nothing is sent",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        is_new = (state["is_new"] & (state["steps"] > 0)).to(torch.float64)
        delta = state.get("change") or _next_own(state) - state["own"]
        return {"delta": delta, "num_new": is_new if is_new.dim() else is_new.item()}

    def process_aux_var(self, state: State, aux_var: AuxVar) -> State:
        """Return the state at the start of a round: c has arrived, c_i⁺ becomes c_i.

        Raises:
            KeyError: unless the variables are those of ``scaffold-server``: ``state``.
        """
        _require_entries(self.name, aux_var, {"state"})
        kept = self.between_rounds(state)
        mean: Vector = aux_var["state"]
        if not kept:  # the server's, which other clients read, too
            return {"correction": mean.as_read_only()}
        return {**kept, "correction": move_beside(mean, kept["own"]) - kept["own"]}

    def between_rounds(self, state: State) -> State:
        """Return c_i, or c_i⁺ after a step, and whether the client is new.

        It stands for the full state wherever the next round begins with the server's variables,
        and is one Vector instead of three.
        """
        if "own" not in state:
            return {}
        if "steps" not in state:
            return {"own": state["own"], "is_new": state["is_new"]}
        return {"own": _next_own(state), "is_new": state["is_new"] & (state["steps"] == 0)}


@dataclass(frozen=True)
class ScaffoldServer(OptiModule):
    """The server's side of SCAFFOLD.

    Receive: the sum of the cohort's c_i⁺ - c_i, which is added to the sum of all c_i, and how
    many of them are new. Step: out g. Send: c, the sum of all c_i over N; nothing before any
    variables have arrived.

    A client that never took part has c_i = 0. N is the size of the population, as in the paper, or
    the number of clients that have taken part; then c is the mean of their c_i.
    """

    name: ClassVar[str] = "scaffold-server"
    aux_name: ClassVar[str] = "scaffold"
    takes_read_only: ClassVar[bool] = True

    num_clients: Count | Literal["population"] | None = "population"
    """N, the number of clients; by default the run's population. None: the number of clients that
    have taken part, as for an Optimizer outside of a run."""

    def for_population(self, num_clients: int) -> ScaffoldServer:
        """Return the module with N set, if N is the population."""
        is_open = self.num_clients == "population"
        return replace(self, num_clients=num_clients) if is_open else self

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the gradients as they are."""
        return gradients, state

    def collect_aux_var(self, state: State) -> AuxVar | None:
        """Return c, one value for all clients, or None before any variables have arrived."""
        if "total" not in state:
            return None
        is_known = isinstance(self.num_clients, int)
        count = self.num_clients if is_known else state["num_seen"].clamp(min=1)
        return {"state": state["total"] / count}

    def process_aux_var(self, state: State, aux_var: AuxVar) -> State:
        """Return the state with the cohort's sums added.

        Raises:
            KeyError: unless the variables are those of ``scaffold-client``: ``delta`` and
                ``num_new``.
        """
        _require_entries(self.name, aux_var, {"delta", "num_new"})
        num_new = torch.as_tensor(aux_var["num_new"], dtype=torch.float64)
        if "total" not in state:
            return {"total": aux_var["delta"], "num_seen": num_new}
        return {
            "total": state["total"] + move_beside(aux_var["delta"], state["total"]),
            "num_seen": state["num_seen"] + num_new,
        }


def _zeros(like: Tensor) -> Tensor:
    # One zero seen everywhere: states are not written to, and this one is hardly ever read.
    return torch.zeros((), dtype=like.dtype, device=like.device).expand(like.shape)


def _difference(left: Vector, right: Vector, *, into: Vector) -> Vector:
    """Return left - right, in the memory of a third Vector unless that is read-only."""
    if into.read_only:
        return left - right
    for name, tensor in into.items():
        torch.sub(left[name], right[name], out=tensor)
    return into


def _next_own(state: State) -> Vector:
    """Return c_i⁺: the mean of the round's gradients, or c_i where no step was run."""
    if "next" in state:
        known: Vector = state["next"]
        return known
    steps: Tensor = state["steps"]
    mean: Vector = state["total"] / steps.clamp(min=1)
    has_stepped = steps > 0
    if bool(has_stepped.all()):
        return mean
    chosen = {
        name: torch.where(with_axes_of(has_stepped, tensor), tensor, state["own"][name])
        for name, tensor in mean.items()
    }
    return Vector(chosen, stacked=mean.stacked)


def _require_entries(name: str, aux: AuxVar, expected: set[str]) -> None:
    found: dict[str, Any] = dict(aux)
    if found.keys() != expected:
        raise KeyError(f"{name} takes the variables {sorted(expected)}, but got {sorted(found)}")
