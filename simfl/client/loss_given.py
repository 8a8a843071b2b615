"""What losses of a batch are given of a client: sums over its examples, and the broadcast."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from simfl.client.batches import ReadBatch
from simfl.data import FederatedDataset
from simfl.models import TorchModel
from simfl.vector import Vector

_MOST_CLIENTS: Final = 4096
"""How many clients' statistics a host remembers; beyond that, they are computed again."""


class LossGiven:
    """Finds what ``Loss.of_batch`` is given of clients; statistics are computed once per client.

    Args:
        model: its loss is asked; its weights do not matter.
        dataset: which rows clients hold.
        read: makes batches of rows.
        batch_size: of the batches that statistics are computed of.
    """

    def __init__(
        self, model: TorchModel, *, dataset: FederatedDataset, read: ReadBatch, batch_size: int
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._read = read
        self._batch_size = batch_size
        self._known: OrderedDict[int, Mapping[str, Tensor]] = OrderedDict()

    def of_client(self, client: int, broadcast: Vector) -> Mapping[str, Any]:
        """Return what the loss is given of one client; it may leave other state in the module.

        Args:
            client: its id.
            broadcast: the weights that its round has started from.
        """
        return {**self._statistics(client), **self._shared(broadcast)}

    def of_stack(self, clients: Sequence[int], broadcast: Vector) -> Mapping[str, Any]:
        """Return the same of a stack: its statistics have a client axis, [C, ...]."""
        each = [self._statistics(client) for client in clients]
        stacked = {name: torch.stack([own[name] for own in each]) for name in each[0]}
        return {**stacked, **self._shared(broadcast)}

    def _shared(self, broadcast: Vector) -> dict[str, Vector]:
        return {"broadcast": broadcast} if self._model.loss.uses_broadcast else {}

    def _statistics(self, client: int) -> Mapping[str, Tensor]:
        if client not in self._known:
            self._known[client] = self._added_up(client)
        self._known.move_to_end(client)
        while len(self._known) > _MOST_CLIENTS:
            self._known.popitem(last=False)
        return self._known[client]

    def _added_up(self, client: int) -> Mapping[str, Tensor]:
        rows, size = self._dataset.train_rows(client), self._batch_size
        sums: dict[str, Tensor] = {}
        for start in range(0, len(rows), size):
            batch = self._read(rows[start : start + size])
            own = self._model.loss.statistics(self._model, batch)
            if not own:
                break
            sums = {name: sums[name] + value if sums else value for name, value in own.items()}
        self._model.held.restore()
        return sums
