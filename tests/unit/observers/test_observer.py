"""An observer that fails takes nothing with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from client_tables import info, table

from simfl.observers import ClientTable, FailSafeObserver, Observer, RoundRecord, RunInfo, Summary


class FailsAt(Observer):
    """Counts its calls, and raises at one of them."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.calls: list[str] = []

    def on_run_start(self, info: RunInfo) -> None:
        self.call("start")

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        self.call(f"round {record['round']}")

    def flush(self) -> None:
        self.call("flush")

    def on_run_end(self, summary: Summary) -> None:
        self.call("end")

    def call(self, moment: str) -> None:
        self.calls.append(moment)
        if moment == self.moment:
            raise ConnectionError("nobody\nanswers")


MOMENTS = {
    "start": "at the start",
    "round 1": "in round 1",
    "flush": "at a checkpoint",
    "round 2": "in round 2",
    "end": "at the end",
}


def observed(observer: Observer, out: Path) -> tuple[FailSafeObserver, list[str]]:
    told: list[str] = []
    guarded = FailSafeObserver(observer, "own 'x'", out=out, notify=told.append)
    guarded.on_run_start(info(out))
    guarded.on_round(RoundRecord.parse({"round": 1}), table(1, [0]))
    guarded.flush()
    guarded.on_round(RoundRecord.parse({"round": 2}), table(2, [0]))
    guarded.on_run_end({})
    return guarded, told


@pytest.mark.parametrize(("moment", "when"), list(MOMENTS.items()))
def test_a_failure_is_reported_once_and_disables_the_observer(
    moment: str, when: str, tmp_path: Path
) -> None:
    observer = FailsAt(moment)
    guarded, told = observed(observer, tmp_path)
    assert observer.calls == list(MOMENTS)[: list(MOMENTS).index(moment) + 1]
    left_out = "; it is disabled from now on, and the run continues" if moment != "end" else ""
    assert told == [
        f"own 'x' failed {when}: ConnectionError: nobody answers{left_out} "
        f"(its traceback is in {tmp_path / 'observers.log'})"
    ]
    assert guarded.lost() == f"failed {when}: ConnectionError: nobody answers"
    log = (tmp_path / "observers.log").read_text()
    assert log.startswith(f"own 'x' {when}\nTraceback")
    assert 'raise ConnectionError("nobody' in log


def test_an_observer_that_does_not_fail_receives_all_events(tmp_path: Path) -> None:
    observer = FailsAt("never")
    guarded, told = observed(observer, tmp_path)
    assert observer.calls == list(MOMENTS)
    assert (told, guarded.lost()) == ([], None)
    assert not (tmp_path / "observers.log").exists()


def test_the_message_names_the_traceback_only_if_it_could_be_written(tmp_path: Path) -> None:
    _, told = observed(FailsAt("start"), tmp_path / "gone")
    assert len(told) == 1
    assert told[0].endswith("the run continues")


def test_the_end_of_a_run_that_never_started_is_only_summed_up(tmp_path: Path) -> None:
    observer = FailsAt("never")
    guarded = FailSafeObserver(observer, "x", out=tmp_path, notify=print)
    guarded.on_run_end({})
    assert observer.calls == []
    guarded.sum_up({})
    assert observer.calls == ["end"]


def test_an_interruption_is_not_caught(tmp_path: Path) -> None:
    class Interrupted(Observer):
        def on_run_start(self, info: RunInfo) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FailSafeObserver(Interrupted(), "x", out=tmp_path, notify=print).on_run_start(
            info(tmp_path)
        )
