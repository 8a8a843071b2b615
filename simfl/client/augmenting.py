"""Augmentation of the batches of a training.

Shapes: C clients of a stack, A those that still have steps to do, B examples of a batch. Without a
stack, there are no such axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from simfl.data import Augmentation
from simfl.data.augment import augment
from simfl.models import Batch
from simfl.seeding import derive_seed, derive_seeds


class Augmenter:
    """Changes the batches of one client's training, or of a stack's, at random.

    What an example draws depends on the training's seed, the round, the client, the step and the
    example's place in the batch.

    Args:
        steps: of ``data.augment``.
        seed: of the training.
        round: which round.
        clients: [C] ids, in the order of the rows of batches.
        stacked: whether batches have an axis of clients.
    """

    def __init__(
        self,
        steps: Sequence[Augmentation],
        *,
        seed: int,
        round: int,
        clients: Sequence[int],
        stacked: bool,
    ) -> None:
        self._steps = steps
        self._stacked = stacked
        self._keys_C = np.array(
            [derive_seed(seed, "augmentation", round=round, client=c) for c in clients if steps],
            np.int64,
        )

    def __call__(self, batch: Batch, step: int) -> Batch:
        """Return the batch of a step, with other inputs."""
        if not self._steps:
            return batch
        assert isinstance(batch.inputs, Tensor), "other inputs are refused before the run"
        active, size = batch.targets.shape[:2] if self._stacked else (1, len(batch.targets))
        of_step_A = derive_seeds(self._keys_C[:active], np.full(active, step))
        seeds_AB = derive_seeds(
            np.repeat(of_step_A, size).reshape(active, size),
            np.broadcast_to(np.arange(size), (active, size)),
        )
        inputs = batch.inputs.flatten(0, 1) if self._stacked else batch.inputs
        changed = augment(self._steps, inputs, seeds_AB.ravel())
        return batch._replace(inputs=changed.reshape(batch.inputs.shape))
