"""A round's clients, for tests of what reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from simfl.observers import ClientTable


def table(round: int, clients: list[int], **changes: Any) -> ClientTable:
    """Return a table in which client c holds c examples, and has taken one step on each."""
    ids = np.array(clients, dtype=np.int64)
    losses = np.full(len(ids), 1.0 / round)
    columns: dict[str, Any] = {
        "num_examples": ids,
        "num_steps": ids,
        "train_loss": losses,
        "first_loss": losses,
        "last_loss": losses,
        "delta_norm": losses,
        "seconds": losses,
        "actor": np.zeros_like(ids),
        "actors": ("inline",),
        "retries": np.zeros_like(ids),
        "dropped": {},
    }
    return ClientTable(round=round, client=ids, **(columns | changes))
