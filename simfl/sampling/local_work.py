"""LocalWork: how much a client trains in a round, and on which examples at each step.

Shapes: T steps, C clients, B examples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from simfl.component import Count, NonNegative, Positive, Section
from simfl.errors import ConfigError
from simfl.sampling.work import Work, draw_amounts
from simfl.seeding import derive_child, derive_seed, derive_seeds, hashed_orders

if TYPE_CHECKING:
    from typing import Self

Column: TypeAlias = "np.ndarray[Any, Any]"

_MOST_STEPS: Final = 2**53
"""More than any run takes; larger floats are not exact, and int64 cannot hold some."""


@dataclass(frozen=True)
class StepPlan:
    """Which examples C clients train on at each of up to T steps."""

    rows: Column
    """[T, C, B] rows of the data set; positions beyond a batch's size hold its first row."""
    sizes: Column
    """[T, C] how many examples each batch has; 0 after a client's last step."""

    @property
    def num_steps(self) -> Column:
        """[C] how many steps each client has."""
        steps: Column = (self.sizes > 0).sum(axis=0)
        return steps


@dataclass(frozen=True, kw_only=True)
class LocalWork(Section):
    """How much a client trains in a round, and on which of its examples at each step."""

    epochs: Positive | Work | None = None
    """How often a client goes through its examples in a round: a number or a distribution; 1 unless
    ``steps`` is given. 0.5 is half of its batches. The number of steps is rounded to the nearest,
    halves up, and is at least 1 for a client with examples."""
    steps: Count | Work | None = None
    """How many steps a client takes in a round, instead of ``epochs``: a number or a
    distribution."""
    batch_size: Count | None = None
    """The examples of a step. null: all that the client holds."""
    drop_last: bool = False
    """Whether to skip the last batch of an epoch if it is smaller, unless it is the only one.
    torch's ``DataLoader`` skips an only one, too."""
    sclip: NonNegative | None = None
    """The L2 norm to which each example's gradient is clipped (DP-SGD). The sum of the clipped
    gradients is divided by ``batch_size``, also in a short batch; without ``batch_size``, by the
    client's number of examples. null or 0: off.
    """

    def __post_init__(self) -> None:
        """Train for one epoch by default."""
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1)

    @property
    def distribution(self) -> Work | None:
        """What the amount of work is drawn from in each round; None if it is a number."""
        given = self.epochs if self.steps is None else self.steps
        if not isinstance(given, Work) or isinstance(given, PlannedSteps):
            return None
        return given

    def draw_steps(
        self, num_examples_C: Column, *, seed: int, round: int, clients: Sequence[int] | Column
    ) -> Column | None:
        """Return how many steps each client of a cohort makes, if that is drawn; None if not.

        Args:
            num_examples_C: how many examples each holds.
            seed: the run's.
            round: which round, from 1.
            clients: [C] the ids of the whole cohort.

        Raises:
            ConfigError: if the distribution draws what is no amount of work.
        """
        if self.distribution is None:
            return None
        amounts_C = draw_amounts(self.distribution, clients, seed=seed, round=round)
        return self._rounded(amounts_C, num_examples_C)

    def taking(self, num_steps: Sequence[int]) -> Self:
        """Return the work of one client, or of a stack, that makes so many steps in this round."""
        one = len(num_steps) == 1
        steps = num_steps[0] if one else PlannedSteps(tuple(num_steps))
        return replace(self, epochs=None, steps=steps)

    def instead(self, *, epochs: float | None, steps: int | None) -> Self:
        """Return work of another amount.

        Raises:
            ConfigError: unless one of the two is given, and is an amount.
        """
        if (epochs is None) == (steps is None):
            raise ConfigError("a training is given epochs and steps; give it one of the two")
        amount = steps if epochs is None else epochs
        is_number = isinstance(amount, int if epochs is None else int | float)
        if not is_number or not 0 < float(amount) < math.inf:  # type: ignore[arg-type]
            what = "steps" if epochs is None else "epochs"
            wanted = "a whole number of at least 1" if epochs is None else "a number above 0"
            shown = repr(amount) if is_number else type(amount).__name__
            raise ConfigError(f"a training is given {what}={shown}; it must be {wanted}")
        return replace(self, epochs=epochs, steps=steps)

    def num_steps(self, num_examples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return how many steps clients make that hold so many examples each; any shape.

        Where that is drawn, ``draw_steps`` does so for a cohort, and ``taking`` makes it known.
        """
        if isinstance(self.steps, PlannedSteps):
            return np.array(self.steps.num_steps)
        assert self.distribution is None, "a round's plan draws the steps of its cohort"
        if isinstance(self.steps, int):
            return np.where(num_examples > 0, self.steps, 0)
        if isinstance(self.epochs, float):
            return self._rounded(self.epochs, num_examples)
        assert isinstance(self.epochs, int)
        return self._batches_an_epoch(num_examples) * self.epochs

    def _rounded(self, amounts: Any, num_examples: Column) -> Column:
        """Return the numbers of steps in these amounts: epochs, or steps if ``steps`` is given."""
        batches = self._batches_an_epoch(num_examples) if self.steps is None else num_examples > 0
        exact = np.minimum(amounts * batches, _MOST_STEPS)
        is_busy = (exact > 0).astype(np.int64)
        steps: Column = np.maximum(np.floor(exact + 0.5).astype(np.int64), is_busy)
        return steps

    def _batches_an_epoch(self, num_examples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        size = np.maximum(np.minimum(self.batch_size or num_examples, num_examples), 1)
        batches: np.ndarray[Any, Any]
        batches = num_examples // size if self.drop_last else -(-num_examples // size)
        return batches

    def clipped_share(self, size: int) -> float:
        """Return the factor for the mean of a batch's clipped gradients.

        It turns the mean over ``size`` examples into their sum divided by ``batch_size``; 1 without
        clipping.

        Source: Abadi et al., 2016, Algorithm 1, https://arxiv.org/abs/1607.00133
        """
        return size / self.batch_size if self.sclip and self.batch_size else 1.0

    def draw_batches(self, rows: Column, *, seed: int, round: int, client: int) -> list[Column]:
        """Return which examples one client trains on: the rows of each batch, step by step.

        They are those of ``plan_steps``, at half of its cost.

        Args:
            rows: that the client holds.
            seed: the run's.
            round: which round, from 1.
            client: its id.
        """
        num_rows = len(rows)
        num_steps = int(self.num_steps(np.asarray(num_rows)))
        if not num_steps:
            return []
        size = min(self.batch_size or num_rows, num_rows)
        starts = range(0, int(self._batches_an_epoch(np.asarray(num_rows))) * size, size)
        num_epochs = -(-num_steps // len(starts))
        own = derive_child(derive_seed(seed, "shuffle", round=round), client)
        seeds = np.array([derive_child(own, epoch) for epoch in range(num_epochs)])
        orders = hashed_orders(seeds, np.full(num_epochs, num_rows))
        drawn = rows[orders].reshape(num_epochs, num_rows)
        batches = [epoch[start : start + size] for epoch in drawn for start in starts]
        return batches[:num_steps]

    def plan_steps(
        self, rows: Sequence[Column], *, seed: int, round: int, clients: Sequence[int]
    ) -> StepPlan:
        """Return the examples that clients train on at each step; each epoch has its own order.

        Args:
            rows: [C] the rows that each client holds.
            seed: the run's.
            round: which round, from 1.
            clients: [C] ids.
        """
        num_rows_C = np.array([len(own) for own in rows], dtype=np.int64)
        num_steps_C = self.num_steps(num_rows_C)
        size_C = np.minimum(self.batch_size or num_rows_C, num_rows_C)
        steps_an_epoch_C = np.maximum(self._batches_an_epoch(num_rows_C), 1)
        num_epochs_C = -(-num_steps_C // steps_an_epoch_C)
        drawn = _draw(rows, num_epochs_C, seed=seed, round=round, clients=clients)

        step_T11 = np.arange(num_steps_C.max(initial=0))[:, None, None]
        epoch_TC1, step_of_epoch_TC1 = np.divmod(step_T11, steps_an_epoch_C[:, None])
        first_TC1 = step_of_epoch_TC1 * size_C[:, None]
        place_TCB = first_TC1 + np.arange(size_C.max(initial=0))
        end_TC1 = np.minimum(first_TC1 + size_C[:, None], num_rows_C[:, None])
        is_used_TCB = (place_TCB < end_TC1) & (step_T11 < num_steps_C[:, None])
        # Batches are padded with the client's own rows: weight 0 times another client's overflow
        # would be NaN.
        place_TCB = np.where(is_used_TCB, place_TCB, first_TC1)
        begin_C = np.cumsum(num_rows_C * num_epochs_C) - num_rows_C * num_epochs_C
        index_TCB = begin_C[:, None] + epoch_TC1 * num_rows_C[:, None] + place_TCB
        # After a client's last step any row will do, since none is used.
        is_step_TC1 = step_T11 < num_steps_C[:, None]
        rows_TCB = drawn[np.where(is_step_TC1, index_TCB, 0)] if len(drawn) else index_TCB
        return StepPlan(rows_TCB, is_used_TCB.sum(axis=2))


@dataclass(frozen=True)
class PlannedSteps(Work):
    """The steps that the clients of a stack make in a round, as its plan has drawn them."""

    num_steps: tuple[int, ...]
    """[C] of each."""


def _draw(
    rows: Sequence[Column],
    num_epochs_C: Column,
    *,
    seed: int,
    round: int,
    clients: Sequence[int],
) -> Column:
    """Return each client's rows in an order for each of its epochs, all after one another."""
    base = np.array(derive_seed(seed, "shuffle", round=round))
    seed_C = derive_seeds(np.broadcast_to(base, len(clients)), np.asarray(clients))
    first_C = np.cumsum(num_epochs_C) - num_epochs_C
    epochs = np.arange(num_epochs_C.sum()) - np.repeat(first_C, num_epochs_C)
    seeds = derive_seeds(np.repeat(seed_C, num_epochs_C), epochs)

    num_rows_C = np.array([len(own) for own in rows], dtype=np.int64)
    lengths = np.repeat(num_rows_C, num_epochs_C)
    begins = np.repeat(np.cumsum(num_rows_C) - num_rows_C, num_epochs_C)
    orders = hashed_orders(seeds, lengths)
    held: Column = np.concatenate(rows)
    drawn: Column = held[orders + np.repeat(begins, lengths)]
    return drawn
