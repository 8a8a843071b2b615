"""Whatever a folder holds, there is a report of it and never a traceback."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from report_cases import NOW, SCENARIO, done, records, write_run, write_table

from simfl.cli.runs import described
from simfl.report.comparison import compare
from simfl.report.draw_plotly import specification
from simfl.report.reading import read_run
from simfl.report.report import make_report
from simfl.report.study import make_study
from simfl.report.targets import default_target
from simfl.report.writing import write_report

FILES = ("scenario.yaml", "metrics.jsonl", "summary.json", "versions.json", "clients.parquet")

KEYS = (
    *("round", "seconds", "seconds_train", "loss", "accuracy", "dropped", "retries"),
    *("client_accuracy", "client_accuracy_worst", "client_accuracy_std"),
)

# Shrinking an example takes minutes here, and the first one found says enough.
SETTINGS = settings(
    max_examples=60, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)

numbers = st.one_of(st.integers(), st.floats(), st.just(10**400))
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


def whole_run(folder: Path) -> Path:
    write_run(folder, records([0.25, None, 0.75], seconds_train=1.0), summary=done(ledger={}))
    columns = {"round": [1], "client": [0], "seconds": [1.0], "actor": ["client-0"]}
    write_table(folder / "clients.parquet", columns)
    return folder


def check_all_is_written(folder: Path, out: Path) -> None:
    """Make every output from this run and a complete one."""
    runs = [read_run(folder, now=NOW), read_run(whole_run(out / "whole"), now=NOW)]
    report = make_report(make_study(runs, target=None), with_data=False)
    for chart in report.charts:
        specification(chart)
    for format in ("csv", "md"):
        write_report(report, out / f"report.{format}", format=format, written="today")
    comparison = compare(*runs, target=default_target(runs))
    json.dumps(described(comparison), allow_nan=False)
    make_report(make_study(runs[:1], target=None), with_data=False)


@SETTINGS
@given(st.sampled_from(FILES), st.integers(0, 2000), st.binary(max_size=30))
def test_a_file_that_breaks_off_or_is_overwritten_does_no_harm(name, start, junk):
    with tempfile.TemporaryDirectory() as made:
        folder = whole_run(Path(made) / "torn")
        data = (folder / name).read_bytes()
        cut = start % (len(data) + 1)
        (folder / name).write_bytes(data[:cut] + junk)
        check_all_is_written(folder, Path(made))


@SETTINGS
@given(
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), st.one_of(st.integers(1, 5), numbers, plain)),
        max_size=5,
    ),
    plain,
    st.dictionaries(st.sampled_from(["status", "wall_seconds", "error", "ledger", "lost"]), plain),
)
def test_values_of_any_kind_do_no_harm(rounds, scenario, summary):
    with tempfile.TemporaryDirectory() as made:
        folder = write_run(Path(made) / "odd", rounds, summary=summary)
        # JSON is YAML, nearly: what is not is a damaged file.
        changed = SCENARIO | {"data": scenario, "seed": scenario, "name": scenario}
        (folder / "scenario.yaml").write_text(json.dumps(changed))
        check_all_is_written(folder, Path(made))
