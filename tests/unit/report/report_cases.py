"""Runs' folders made by hand, for the tests of what reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

NOW = 1_000_000.0
"""The time at which tests read; files are written 10 seconds before."""

SCENARIO = {
    "name": "small",
    "seed": 0,
    "rounds": 3,
    "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
    "model": {"kind": "mlp", "hidden": [8]},
    "client": {"per_round": 2, "optimizer": {"lrate": 0.1, "modules": []}},
}


def records(accuracies: Sequence[float | None], **more: Any) -> list[dict[str, Any]]:
    """Return a record for each accuracy, of 2 seconds each; None: not evaluated."""
    made = []
    for number, accuracy in enumerate(accuracies, start=1):
        evaluated = {} if accuracy is None else {"loss": 1 - accuracy, "accuracy": accuracy}
        counts = {"clients": 2, "dropped": 0, "retries": 0, "examples": 20, "steps": 4}
        made.append(
            {"round": number, "seconds": 2.0, "train_loss": 1 / number, **counts, **evaluated}
            | more
        )
    return made


def write_run(
    folder: Path,
    rounds: Sequence[Mapping[str, Any]] = (),
    *,
    scenario: Mapping[str, Any] | None = SCENARIO,
    summary: Mapping[str, Any] | None = None,
    age_s: float = 10.0,
) -> Path:
    """Write a run's files, last changed ``age_s`` before ``NOW``."""
    folder.mkdir(parents=True, exist_ok=True)
    if scenario is not None:
        (folder / "scenario.yaml").write_text(yaml.safe_dump(dict(scenario), sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    (folder / "versions.json").write_text('{"python": "3.11.7", "simfl": "0.1.0"}')
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    set_age(folder, age_s)
    return folder


def done(seconds: float = 7.0, **more: Any) -> dict[str, Any]:
    """Return the summary of a run that is done."""
    return {"status": "done", "wall_seconds": seconds, **more}


def set_age(folder: Path, age_s: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (NOW - age_s, NOW - age_s))


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(dict(columns)), path)
