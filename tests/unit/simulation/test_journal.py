"""The ledger, by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from simfl.observers import ClientTable, RunInfo
from simfl.record import RoundRecord
from simfl.simulation.journal import NOT_KNOWN, Ledger

INFO = RunInfo(
    name="demo",
    rounds=2,
    population=9,
    cohort_size=2,
    out=Path("runs/demo"),
    workers="2 client actors",
    num_actors=2,
    scenario={"cluster": {"num_gpus": 0.25}},
)
RECORD = RoundRecord(
    round=1,
    steps=6,
    examples_seen=24,
    sent_bytes=96,
    received_bytes=80,
    received_dense_bytes=320,
    retries=1,
    actors=2,
    phases={"train": 2.5},
)


def clients(*seconds: float) -> ClientTable:
    column = np.array(seconds)
    ids = np.arange(len(seconds))
    names = [field.name for field in dataclasses.fields(ClientTable)]
    columns = dict.fromkeys(names, column) | {"client": ids, "actor": ids * 0, "retries": ids * 0}
    return ClientTable(**columns | {"round": 1, "actors": ("client-0",), "dropped": {}})


def test_the_ledger_counts_all_rounds_and_divides_by_the_training_time() -> None:
    """Two rounds of 3 + 1 and 2 + 2 client seconds, in 5 seconds of training by two actors."""
    ledger = Ledger()
    ledger.begin(INFO)
    ledger.add(RECORD, clients(3.0, 1.0))
    ledger.add(dataclasses.replace(RECORD, dropped=2, received_bytes=0), clients(2.0, 2.0))
    balance = ledger.balance({"start": 4.0, "train": 5.0}, {"driver": 1, "server": 2, "client": 3})
    assert balance == {
        "rounds": 2,
        "seconds": {"start": 4.0, "train": 5.0},
        "steps": 12,
        "examples_seen": 48,
        "sent_bytes": 192,
        "received_bytes": 80,
        "received_dense_bytes": 640,
        "base_bytes": 0,
        "retries": 2,
        "dropped": 2,
        "steps_per_second": 12 / 5,
        "examples_per_second": 48 / 5,
        "actors": 2,
        "client_seconds": 8.0,
        "busy_share": 8 / 10,
        "gpu_seconds": 8 / 4,
        "peak_memory_bytes": {"driver": 1, "server": 2, "client": 3},
    }


def test_a_run_that_never_began_has_an_empty_ledger() -> None:
    balance = Ledger().balance({"prepare": 0.5}, NOT_KNOWN)
    assert balance["seconds"] == {"prepare": 0.5}
    assert (balance["rounds"], balance["steps"], balance["steps_per_second"]) == (0, 0, None)


def test_a_base_is_counted_once_for_each_client_that_took_part() -> None:
    ledger = Ledger(base_bytes=100)
    table = clients(1.0, 2.0)
    ledger.add(RECORD, table)
    ledger.add(RECORD, table)
    assert ledger.balance({}, NOT_KNOWN)["base_bytes"] == 200
