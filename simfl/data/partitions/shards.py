"""Examples sorted by class and cut into shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.component import Count
from simfl.data.dataset import Array
from simfl.data.partition import Partition, class_codes, require_enough_examples, rows_by_owner
from simfl.errors import ConfigError
from simfl.seeding import numpy_generator


@dataclass(frozen=True)
class Shards(Partition):
    """Sort by class, cut into shards of the same size, give each client some shards at random.

    Shard sizes differ by one example at most. A shard holds one class, or two and more where a
    class ends within it.

    Source: McMahan et al., 2017, section 3, "non-IID", https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "shards"

    clients: Count
    """How many clients there are."""
    shards_per_client: Count = 2
    """How many shards each client gets."""

    def split(
        self,
        targets: Array,
        columns: dict[str, Array],
        *,
        seed: int,
    ) -> tuple[Array, Array]:
        """Cut the shards and deal them out."""
        codes = class_codes(targets, partition=self.name)
        num_shards = self._num_shards(len(targets))
        generator = numpy_generator(seed, "data.partition")
        shuffled = generator.permutation(len(targets))
        by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
        ends = np.arange(num_shards + 1, dtype=np.int64) * len(targets) // num_shards
        owner_of_shard = generator.permutation(num_shards) // self.shards_per_client
        owners = np.empty(len(targets), np.int64)
        owners[by_class] = np.repeat(owner_of_shard, np.diff(ends))
        return rows_by_owner(owners, clients=self.clients)

    def _num_shards(self, examples: int) -> int:
        require_enough_examples(examples, clients=self.clients)
        num_shards = self.clients * self.shards_per_client
        if num_shards > examples:
            raise ConfigError(
                f"data.partition.shards_per_client is {self.shards_per_client}, which makes "
                f"{num_shards} shards for {self.clients} clients, but there are {examples} "
                "training examples; lower it or data.partition.clients"
            )
        return num_shards
