"""A run and a round's clients, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simfl.observers import ClientTable, RunInfo
from simfl.record import RoundRecord


def info(out: Path, *, done: int = 0) -> RunInfo:
    """Return a run of nine rounds that has so many behind it."""
    return RunInfo(
        name="demo",
        rounds=9,
        population=100,
        cohort_size=10,
        out=out,
        workers="here",
        run_id="0123456789ab",
        scenario={"seed": 3, "client": {"epochs": 2}},
        history=tuple(RoundRecord.parse({"round": number}) for number in range(1, done + 1)),
    )


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
