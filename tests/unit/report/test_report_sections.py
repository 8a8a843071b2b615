"""What a report says of its runs."""

from __future__ import annotations

import csv
import io

import pytest
from report_cases import SCENARIO, done, records, write_run, write_table

from simfl.report.charts import Bars, Histogram, Lines
from simfl.report.writing import write_report

WRITTEN = "2026-11-24 12:00"


def section(report, title):
    return next(section for section in report.sections if section.title == title)


def chart(report, title):
    return next(chart for chart in report.charts if chart.title == title)


def table(report, title):
    tables = [table for section in report.sections for table in section.tables]
    return next(table for table in tables if table.title == title)


def test_one_run_is_summed_up_in_tiles(make, full):
    tiles = {tile.label: (tile.value, tile.detail) for tile in make(full[0]).tiles}
    assert tiles == {
        "state": ("done", ""),
        "rounds": ("3", "of 3"),
        "accuracy": ("0.7500", "final and best"),
        "time": ("7.0 s", "2.3 s/round"),
        "clients a round": ("2", "of 4"),
        "seed": ("0", ""),
    }


def test_a_cohort_that_is_a_share_is_shown_as_the_clients_it_was(make, tmp_path):
    scenario = SCENARIO | {"client": SCENARIO["client"] | {"per_round": 0.6}}
    write_run(tmp_path, records([0.5], dropped=1), scenario=scenario)
    tiles = {tile.label: tile.value for tile in make(tmp_path).tiles}
    assert tiles["clients a round"] == "3"


def test_several_runs_are_a_table_with_a_row_and_a_colour_each(make, full):
    report = make(*full)
    assert [row[0] for row in report.runs.rows] == ["slow-0", "slow-1", "fast-0", "fast-1"]
    assert [row[3] for row in report.runs.rows] == ["done", "done", "done", "failed"]
    first, second, third, fourth = report.runs.colours
    assert first == second != third == fourth


def test_each_group_is_one_curve_in_its_colour_with_a_band(make, full):
    report = make(*full)
    curves = chart(report, "Test accuracy")
    assert isinstance(curves, Lines)
    assert [line.label for line in curves.lines] == ["slow", "fast"]
    assert [line.colour for line in curves.lines] == list(dict.fromkeys(report.runs.colours))
    # Round 2: 0.5 and 0.5625 on one side, 0.625 and 0.6875 on the other.
    assert [line.y[1] for line in curves.lines] == [0.53125, 0.65625]
    assert all(line.band is not None for line in curves.lines)
    assert "Student-t 95 %" in section(report, "Learning").lead


def test_rounds_and_seconds_to_the_target_are_listed_by_group(make, full):
    """All reach 0.75 in round 3, after 3 rounds of 2 seconds."""
    rows = table(make(*full), "To accuracy ≥ 0.75").rows
    assert [row[:4] for row in rows] == [
        ("slow", "2 of 2", "3", "6.0 s"),
        ("fast", "2 of 2", "3", "6.0 s"),
    ]


def test_the_differences_of_scenarios_are_a_table(make, full):
    found = table(make(*full), "Where the resolved scenarios differ")
    assert found.header == ("key", "slow", "fast")
    assert found.rows == (("client.optimizer.lrate", "0.1", "0.5"),)


def test_clients_are_counted_by_how_often_they_took_part(make, full):
    """Of 4 clients one took part never, one once, one twice, one three times."""
    found = chart(make(full[0]), "How often clients took part")
    assert isinstance(found, Histogram)
    assert found.edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert found.stacks[0].values == (1, 1, 1, 1)


def test_the_last_evaluation_is_a_histogram_in_percent(make, full):
    """Accuracies 0.25, 0.5, 0.75 and 1 in bins of 0.05: a quarter of the clients each."""
    found = chart(make(full[0]), "Clients by their last evaluation")
    assert [i for i, share in enumerate(found.stacks[0].values) if share] == [5, 10, 15, 19]
    assert sum(found.stacks[0].values) == 100


def test_the_worst_tenth_and_the_variance_are_those_of_the_table(make, full):
    """0.25, 0.5, 0.75, 1: mean 0.625, variance (0.375² + 0.125²) / 2 = 0.078125; by Jain's index
    2.5² / (4 * 1.875) = 5/6."""
    (row,) = table(make(full[0]), "After the last evaluation").rows
    assert row == ("slow-0", "3", "4", "0.6250", "0.0781", "0.2500", "1.0000", "0.2500", "0.8333")


def test_global_and_personal_models_are_side_by_side(make, tmp_path):
    """Without a table, from the records: 0.6 and 0.8 with variances 0.04 and 0.01."""
    numbers = {
        "client_accuracy": 0.6,
        "client_accuracy_std": 0.2,
        "client_accuracy_worst": 0.1,
        "client_personal_accuracy": 0.8,
        "client_personal_accuracy_std": 0.1,
        "client_new_accuracy": 0.5,
        "client_new_personal_accuracy": 0.5,
    }
    run = write_run(tmp_path / "a", records([0.5, 0.7], **numbers), summary=done())
    report = make(run)
    found = chart(report, "Global and personal")
    assert [(line.label, line.y.tolist(), line.is_dashed) for line in found.lines] == [
        ("small, global", [0.6, 0.6], False),
        ("small, personal", [0.8, 0.8], True),
    ]
    new = chart(report, "Clients that never train")
    assert [line.label for line in new.lines] == [
        "small, new clients",
        "small, new clients, personal",
    ]
    shown = table(report, "After the last evaluation")
    rows = [dict(zip(shown.header, row, strict=True)) for row in shown.rows]
    assert [row["model"] for row in rows] == [
        *("global", "personal"),
        *("global, new clients", "personal, new clients"),
    ]
    assert [row["mean"] for row in rows] == ["0.6000", "0.8000", "0.5000", "0.5000"]
    assert [row["variance"] for row in rows] == ["0.0400", "0.0100", "—", "—"]


def test_over_seeds_the_spread_is_a_mean_with_its_deviation(make, full):
    """Both seeds have the same evaluations; without a table the second has 0.2 for its worst."""
    (part,) = (full[1] / "evaluations.parquet").iterdir()
    part.unlink()
    (row,) = table(make(*full[:2]), "After the last evaluation").rows
    # Worst: 0.25 and 0.2, so 0.225 with a deviation of 0.05 / sqrt(2).
    assert row[:3] == ("slow", "3", "4")
    assert row[5] == "0.2250 ± 0.0354"


def test_of_many_scenarios_the_differences_have_a_row_each(make, tmp_path):
    """Five differ in one key: a column a scenario would not fit, so each is a row in its colour."""
    runs = [
        write_run(tmp_path / f"{n}", records([0.5]), scenario=SCENARIO | {"rounds": n})
        for n in range(1, 6)
    ]
    report = make(*runs)
    found = table(report, "Where the resolved scenarios differ")
    assert found.header == ("run", "rounds")
    assert found.rows == tuple((f"rounds={n}", str(n)) for n in range(1, 6))
    assert found.colours == report.runs.colours


def test_the_time_is_the_ledgers_by_phase(make, full):
    found = chart(make(full[0]), "Seconds by phase")
    assert {stack.label: stack.values for stack in found.stacks} == {
        "start": (1.0,),
        "train": (4.5,),
        "evaluate": (1.5,),
    }


def test_without_a_ledger_the_time_is_that_of_rounds_and_the_rest(make, tmp_path):
    """Three rounds of 1.5 seconds of training in 7 seconds leave 2.5."""
    rounds = records([None] * 3, seconds=1.5, seconds_train=1.5)
    found = chart(make(write_run(tmp_path / "a", rounds, summary=done(7))), "Seconds by phase")
    assert {s.label: s.values for s in found.stacks} == {"train": (4.5,), "rest": (2.5,)}


def test_actors_are_busy_for_their_share_of_the_training(make, full):
    """3 and 1.5 seconds of 4.5."""
    found = chart(make(full[0]), "Actor utilization")
    assert isinstance(found, Bars)
    assert found.names == ("client-0", "client-1")
    assert found.stacks[0].values == pytest.approx((2 / 3, 1 / 3))


def test_what_was_lost_is_counted_and_what_ended_a_run_is_said(make, full):
    rows = table(make(*full), "Lost work").rows
    assert rows[2] == ("fast-0", "done", "2", "0", "—")
    assert rows[3] == ("fast-1", "failed", "3", "0", "no memory")


def test_it_is_said_why_updates_were_dropped_and_whose_they_were(make, tmp_path):
    run = write_run(tmp_path / "a", records([0.5], dropped=3), summary=done())
    columns = {
        "round": [1] * 4,
        "client": [4, 2, 4, 1],
        "seconds": [1.0] * 4,
        "actor": ["client-0"] * 4,
        "dropped": ["ValueError: broken sensor", "not finite", "ValueError: broken sensor", None],
    }
    write_table(run / "clients.parquet" / "part-000001.parquet", columns)
    assert table(make(run), "Why updates were dropped").rows == (
        ("a", "2", "4", "ValueError: broken sensor"),
        ("a", "1", "2", "not finite"),
    )


def test_a_run_without_losses_says_so(make, tmp_path):
    report = make(write_run(tmp_path / "a", records([0.5]), summary=done()))
    assert section(report, "Failures").lead.startswith("No update was dropped")


def test_the_labels_are_those_of_the_data_set_made_again(make, tmp_path):
    """scikit-learn's digits: 1,797 images of ten digits."""
    run = write_run(tmp_path / "a", records([0.5]), summary=done())
    skew = chart(make(run, with_data=True), "Labels of each client")
    assert [stack.label for stack in skew.stacks] == [str(digit) for digit in range(10)]
    assert sum(stack.values[0] for stack in skew.stacks) == pytest.approx(1)
    assert skew.note.startswith("A client holds 10.0 of 10 labels on average")
    assert "1,797 examples" in chart(make(run, with_data=True), "Examples per client").note


def test_data_that_cannot_be_loaded_are_omitted_and_reported(make, tmp_path):
    scenario = SCENARIO | {"data": {"source": "npz", "path": str(tmp_path / "gone.npz")}}
    run = write_run(tmp_path / "a", records([0.5]), scenario=scenario, summary=done())
    notes = section(make(run, with_data=True), "Population").notes
    assert len(notes) == 1
    assert "the data cannot be loaded, and are omitted" in notes[0]


def test_a_run_that_has_just_begun_has_a_report(make, tmp_path):
    report = make(write_run(tmp_path / "a"))
    assert "no round has been written yet" in section(report, "Learning").notes[0]
    assert {tile.label: tile.value for tile in report.tiles}["state"] == "running"


def test_missing_files_are_reported_once_for_all_runs(make, tmp_path):
    runs = [write_run(tmp_path / name, records([0.5]), summary=done()) for name in "ab"]
    notes = section(make(*runs), "Provenance").notes
    assert notes == ("clients.parquet is missing: nothing is known about single clients (a, b)",)


def test_numbers_that_are_not_finite_are_told_of(make, tmp_path):
    rounds = records([0.5, 0.5])
    rounds[1]["train_loss"] = float("nan")
    report = make(write_run(tmp_path / "a", rounds, summary=done()))
    assert "a: train_loss has no finite value in 1 round (round 2)" in "".join(
        section(report, "Learning").notes
    )


def test_a_csv_has_a_row_for_each_run_and_round(make, full, tmp_path):
    out = tmp_path / "r.csv"
    write_report(make(*full), out, format="csv", written=WRITTEN)
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(rows) == 12
    assert rows[4]["run"] == "slow-1"
    assert (rows[4]["group"], rows[4]["seed"], rows[4]["round"]) == ("slow", "1", "2")
    assert rows[4]["accuracy"] == "0.5625"


def test_markdown_shows_what_runs_are_called_as_text(make, tmp_path):
    evil = "<script>x</script> ![see](http://host/a.png) a|b"
    run = write_run(tmp_path / "a", records([0.5]), scenario=SCENARIO | {"name": evil})
    write_report(make(run), tmp_path / "r.md", format="md", written="today")
    text = (tmp_path / "r.md").read_text()
    assert "script" in text
    assert "<script" not in text
    assert text.count("[see]") == text.count(r"\[see]") > 0


def test_markdown_has_the_tables(make, full, tmp_path):
    out = tmp_path / "r.md"
    write_report(make(*full), out, format="md", written=WRITTEN)
    lines = out.read_text().splitlines()
    assert lines[0] == "# small"
    assert "| client.optimizer.lrate | 0.1 | 0.5 |" in lines
    assert "| slow | 2 of 2 | 3 | 6.0 s | 0.7500 ± 0.0000 | 0.7500 ± 0.0000 |" in lines


def test_a_picture_has_all_charts(make, full, tmp_path):
    from matplotlib.image import imread

    out = tmp_path / "r.png"
    report = make(*full)
    write_report(report, out, format="png", written=WRITTEN)
    pixels = (imread(out)[:, :, :3] * 255).round().astype(int)
    for group in ((0x4E, 0x79, 0xA7), (0xF2, 0x8E, 0x2B)):
        assert (pixels == group).all(axis=2).any()
    assert pixels.shape[0] > 100 * len(report.charts)


def nll_run(folder, values, **of_clients):
    """A run whose metric is a loss by another name, of four clients."""
    rounds = [{"round": n, "nll": v, **of_clients} for n, v in enumerate(values, start=1)]
    scenario = SCENARIO | {"name": folder.name, "model": {"kind": folder.name}}
    run = write_run(folder, rounds, scenario=scenario, summary=done())
    (run / "run.json").write_text('{"better": {"nll": "min", "client_nll": "min"}}')
    return run


def test_of_a_metric_that_is_a_loss_small_values_are_the_best_everywhere(make, tmp_path):
    runs = [nll_run(tmp_path / "a", [3.0, 1.0, 2.0]), nll_run(tmp_path / "b", [3.0, 4.0, 5.0])]
    tiles = {tile.label: (tile.value, tile.detail) for tile in make(runs[0]).tiles}
    assert tiles["nll"] == ("2.0000", "final; best 1.0000 in round 2")
    tiles = {tile.label: (tile.value, tile.detail) for tile in make(*runs).tiles}
    assert tiles["best final nll"] == ("2.0000", "a")


def test_the_worst_tenth_of_clients_are_those_with_the_largest_loss_by_any_name(make, tmp_path):
    run = nll_run(tmp_path / "a", [3.0], client_nll=2.5, client_nll_std=1, client_nll_worst=4)
    columns = {"round": [1] * 4, "client": [0, 1, 2, 3], "weight": [1.0] * 4}
    write_table(run / "evaluations.parquet" / "p.parquet", columns | {"nll": [1.0, 2.0, 3.0, 4.0]})
    found = table(make(run), "After the last evaluation")
    row = dict(zip(found.header, found.rows[0], strict=True))
    assert (row["worst 10 %"], row["best 10 %"]) == ("4.0000", "1.0000")


def test_without_a_test_split_clients_are_the_headline(make, tmp_path):
    """What the cohort's train loss says of methods may be the opposite."""
    rounds = [{"round": 1, "train_loss": 0.5, "client_accuracy": 0.75, "client_loss": 1.0}]
    tiles = make(write_run(tmp_path / "a", rounds, summary=done())).tiles
    assert "0.7500" in {tile.label: tile.value for tile in tiles}["client accuracy"]


def test_final_numbers_over_seeds_are_a_table_and_their_best_mean_is_the_headline(make, tmp_path):
    """The best seed, 0.9, is of a group whose mean is 0.6; the other's is 0.7 ± 0.1414."""
    finals = {("a", 0): 0.9, ("a", 1): 0.3, ("b", 0): 0.6, ("b", 1): 0.8}
    runs = [
        write_run(
            tmp_path / f"{label}{seed}",
            records([0.1, final]),
            scenario=SCENARIO | {"label": label, "seed": seed, "rounds": ord(label)},
            summary=done(),
        )
        for (label, seed), final in finals.items()
    ]
    report = make(*runs)
    found = table(report, "Final numbers over seeds")
    assert found.header == ("group", "seeds", "train_loss", "loss", "accuracy")
    assert [(row[0], row[1], row[-1]) for row in found.rows] == [
        ("a", "2", "0.6000 ± 0.4243"),
        ("b", "2", "0.7000 ± 0.1414"),
    ]
    tiles = {tile.label: (tile.value, tile.detail) for tile in report.tiles}
    assert tiles["best final accuracy"] == ("0.7000", "b, mean over seeds")


@pytest.mark.parametrize("huge", [1e308, -1e308])
@pytest.mark.filterwarnings("error")
def test_numbers_that_no_sum_can_hold_are_reported(make, tmp_path, huge):
    rounds = [{"round": n, "seconds": 1e308, "loss": huge, "accuracy": 0.5} for n in (1, 2)]
    runs = [write_run(tmp_path / str(n), rounds, scenario=SCENARIO | {"seed": n}) for n in range(3)]
    for format in ("md", "csv", "html", "png"):
        write_report(make(*runs), tmp_path / f"r.{format}", format=format, written=WRITTEN)


def test_the_last_confusion_matrix_is_drawn_and_that_of_seeds_is_added_up(make, tmp_path):
    """Class 0 on top, coloured by shares of a class; a matrix with a hole is none."""
    folders = []
    for seed, last in enumerate([[[3, 1], [0, 0]], [[5, 1], [2, 1]]]):
        rounds = records([0.5, 0.75])
        rounds[0]["confusion"], rounds[1]["confusion"] = [[1, 0], [0, 1]], last
        rounds[1]["recall-by-class"] = [0.5, None]
        folders.append(write_run(tmp_path / str(seed), rounds, scenario=SCENARIO | {"seed": seed}))
    found = chart(make(*folders), "Confusion")
    assert found.texts == (("2", "1"), ("8", "2"))
    assert found.values.tolist() == [[2 / 3, 1 / 3], [0.8, 0.2]]
    assert found.rows == ("1", "0")
    alone = chart(make(folders[0]), "Confusion")
    assert alone.values[1].tolist() == [0.75, 0.25]
    torn = records([0.5])
    torn[0]["confusion"] = [[1, None], [0, 1]]
    report = make(write_run(tmp_path / "torn", torn))
    assert "Confusion" not in {one.title for one in report.charts}
