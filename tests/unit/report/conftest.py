from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_cases import NOW, SCENARIO, done, records, write_run, write_table

from simfl.report.reading import read_run
from simfl.report.report import Report, make_report
from simfl.report.study import make_study


@pytest.fixture
def make() -> Callable[..., Report]:
    """Make a report of the runs in folders."""

    def make(*folders: Path, with_data: bool = False) -> Report:
        study = make_study([read_run(folder, now=NOW) for folder in folders], target=None)
        return make_report(study, with_data=with_data)

    return make


@pytest.fixture
def full(tmp_path: Path) -> list[Path]:
    """Four runs with all that a run leaves: two seeds of two scenarios, the last one failed."""
    folders = []
    for number in range(4):
        seed, is_fast = number % 2, number >= 2
        phases = {"seconds_train": 1.5, "seconds_evaluate": 0.5}
        spread = {"client_accuracy": 0.5, "client_accuracy_std": 0.1, "client_accuracy_worst": 0.2}
        rounds = records([0.25, 0.5 + number / 16, 0.75], **phases, **spread)
        rounds[1]["dropped"] = number
        client = SCENARIO["client"] | {"optimizer": {"lrate": 0.5 if is_fast else 0.1}}
        ledger = {"seconds": {"start": 1.0, **{k[8:]: 3 * v for k, v in phases.items()}}}
        summary = done(7.0, ledger=ledger | {"sent_bytes": 2048})
        folder = write_run(
            tmp_path / f"{'fast' if is_fast else 'slow'}-{seed}",
            rounds,
            scenario=SCENARIO
            | {"seed": seed, "client": client, "label": "fast" if is_fast else "slow"},
            summary=summary | ({"status": "failed", "error": "no memory"} if number == 3 else {}),
        )
        write_table(
            folder / "clients.parquet" / "part-000001.parquet",
            {
                "round": [1, 1, 2, 2, 3, 3],
                "client": [0, 1, 1, 2, 0, 1],
                "seconds": [1.0, 0.5] * 3,
                "actor": ["client-0", "client-1"] * 3,
            },
        )
        write_table(
            folder / "evaluations.parquet" / "part-000001.parquet",
            {
                "round": [1] * 4 + [3] * 4,
                "client": [0, 1, 2, 3] * 2,
                "weight": [1.0] * 8,
                "accuracy": [0.0, 0.25, 0.25, 0.5, 0.25, 0.5, 0.75, 1.0],
            },
        )
        folders.append(folder)
    return folders
