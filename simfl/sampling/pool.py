"""What a sampler may know of the population before a round, and what it remembers.

Shapes: N clients of the population, K of a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from simfl.messages import ClientReports
from simfl.states import State

Array: TypeAlias = "np.ndarray[Any, Any]"

Memory: TypeAlias = "dict[str, Array]"
"""What a sampler remembers: arrays of numbers by name, usually [N]."""


@dataclass(frozen=True)
class Pool:
    """The population before a round, as columns [N]. None of them may be changed."""

    round: int
    """Which round is to be drawn, from 1."""
    num_examples: Array
    """How many examples each client trains on."""
    num_steps: Array
    """How many local steps each would make."""
    expected_seconds: Array
    """How long each would take in virtual time; NaN: not known."""
    last_round: Array
    """The last round for which each was drawn, int64; 0: none."""
    last_loss: Array
    """The mean training loss of the last round to which each has contributed; NaN: none."""
    asked: Array
    """[M] the ids that ``Sampler.asks`` returned, in its order; empty in ``asks`` itself."""
    loss: Array
    """The mean loss of the weights that the round starts from over the training examples of each
    client that was asked; NaN: it was not, or has no examples, or has failed."""

    def __len__(self) -> int:
        return len(self.num_examples)

    def with_losses(self, asked: Array, losses: Array) -> Pool:
        """Return the population with the losses [M] of clients that were asked."""
        loss = self.loss.copy()
        loss[asked] = losses
        return replace(self, asked=asked, loss=loss)


@dataclass(frozen=True)
class Past:
    """What the rounds so far have left: a value, in checkpoints as every other state."""

    last_round: Array
    last_loss: Array
    memory: Memory
    """The sampler's own."""

    def __post_init__(self) -> None:
        """Make all arrays read-only, so that no sampler changes the past."""
        for array in (self.last_round, self.last_loss, *self.memory.values()):
            array.setflags(write=False)

    @classmethod
    def none(cls, population: int) -> Past:
        """Return what there is before the first round."""
        return cls(np.zeros(population, np.int64), np.full(population, np.nan), {})

    def after(self, round: int, reports: ClientReports) -> Past:
        """Return the columns after a round; the memory is as it was."""
        last_round, last_loss = self.last_round.copy(), self.last_loss.copy()
        last_round[reports.client] = round
        contributed = ~np.isin(reports.client, list(reports.dropped))
        last_loss[reports.client[contributed]] = reports.train_loss[contributed]
        return replace(self, last_round=last_round, last_loss=last_loss)

    def pool(self, round: int, *, num_examples: Array, num_steps: Array) -> Pool:
        """Return the population before a round."""
        return Pool(
            round=round,
            num_examples=num_examples,
            num_steps=num_steps,
            expected_seconds=np.full(len(num_examples), np.nan),
            last_round=self.last_round,
            last_loss=self.last_loss,
            asked=np.zeros(0, np.int64),
            loss=np.full(len(num_examples), np.nan),
        )

    def to_state(self) -> State:
        """Return it as tensors, for a checkpoint."""
        columns = {"last_round": self.last_round, "last_loss": self.last_loss}
        return {**_to_tensors(columns), "memory": _to_tensors(self.memory)}

    @classmethod
    def from_state(cls, state: State) -> Past:
        """Return what ``to_state`` was called on."""
        memory = {name: tensor.numpy() for name, tensor in state["memory"].items()}
        return cls(state["last_round"].numpy(), state["last_loss"].numpy(), memory)


def _to_tensors(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
