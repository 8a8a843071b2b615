"""Examples dealt out at random, evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.component import Count
from simfl.data.dataset import Array
from simfl.data.partition import Partition, require_enough_examples
from simfl.seeding import numpy_generator


@dataclass(frozen=True)
class IID(Partition):
    """Each client holds a random sample of the same size, give or take one example.

    Source: McMahan et al., 2017, section 3, "IID", https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "iid"

    clients: Count
    """How many clients there are."""

    def split(
        self,
        targets: Array,
        columns: dict[str, Array],
        *,
        seed: int,
    ) -> tuple[Array, Array]:
        """Deal the examples out."""
        require_enough_examples(len(targets), clients=self.clients)
        rows = numpy_generator(seed, "data.partition").permutation(len(targets))
        offsets = np.arange(self.clients + 1, dtype=np.int64) * len(targets) // self.clients
        return rows, offsets
