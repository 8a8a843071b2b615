"""The chart of the main metric against the keys that were varied."""

from __future__ import annotations

import numpy as np
import pytest
from report_cases import NOW, SCENARIO, done, records, write_run

from simfl.report.bands import View
from simfl.report.charts import HeatMap, Lines
from simfl.report.draw_plotly import specification
from simfl.report.figures import draw_figure
from simfl.report.reading import read_run
from simfl.report.study import make_study
from simfl.report.values import values_section


@pytest.fixture
def charts(tmp_path):
    """Return the charts of runs: (label, values of keys, final accuracies by seed) each."""

    def charts(*methods, **view):
        runs = []
        for number, (label, keys, accuracies) in enumerate(methods):
            for seed, accuracy in enumerate(accuracies):
                scenario = SCENARIO | {"seed": seed, "label": label, "client": keys}
                folder = tmp_path / f"{number}-{seed}"
                write_run(folder, records([0.1, accuracy]), scenario=scenario, summary=done())
                runs.append(read_run(folder, now=NOW))
        found = values_section(make_study(runs, target=None, view=View(**view))).charts
        for chart in found:  # both libraries take them
            draw_figure(chart, tmp_path / "f", width=3.3, format="svg")
            specification(chart)
        return found

    return charts


def test_a_number_that_was_varied_is_a_line_with_the_band_over_seeds(charts):
    """0.4 and 0.6: mean 0.5, s = 0.1414; values in the order of size."""
    (chart,) = charts(
        (None, {"lrate": 1.0}, [0.8, 0.8]),
        (None, {"lrate": 0.01}, [0.4, 0.6]),
        (None, {"lrate": 0.1}, [0.7, 0.7]),
        band="sd",
    )
    (line,) = chart.lines
    assert isinstance(chart, Lines)
    assert (chart.name, chart.x, chart.log) == ("accuracy-against-lrate", "lrate", "x")
    assert line.x.tolist() == [0.01, 0.1, 1.0]
    assert line.y.tolist() == pytest.approx([0.5, 0.7, 0.8])
    assert line.band.high.tolist() == pytest.approx([0.5 + 0.02**0.5, 0.7, 0.8])


def test_cases_are_a_line_each(charts):
    (chart,) = charts(
        ("a", {"lrate": 1, "mu": 0}, [0.1]),
        ("b", {"lrate": 1, "mu": 7}, [0.2]),
        ("a", {"lrate": 2, "mu": 0}, [0.3]),
        ("b", {"lrate": 2, "mu": 7}, [0.4]),
    )
    assert {line.label: line.y.tolist() for line in chart.lines} == {
        "a": [0.1, 0.3],
        "b": [0.2, 0.4],
    }
    assert chart.log == ""  # from 1 to 2


def test_two_numbers_are_a_heat_map(charts):
    """A grid without one of its four fields."""
    (chart,) = charts(
        (None, {"a": 1, "b": 20}, [0.1, 0.3]),
        (None, {"a": 2, "b": 20}, [0.5, 0.5]),
        (None, {"a": 1, "b": 3}, [0.7, 0.7]),
    )
    assert isinstance(chart, HeatMap)
    assert (chart.columns, chart.rows) == (("1", "2"), ("3", "20"))
    assert np.allclose(chart.values, [[0.7, np.nan], [0.2, 0.5]], equal_nan=True)
    assert chart.texts[1][0].startswith("0.200\n± ")
    assert chart.texts[0][1] == ""


def test_draws_are_points_against_each_number(charts):
    draws = [(None, {"a": n, "b": 0.1 * (n * n % 11)}, [n / 10]) for n in range(1, 6)]
    a, b = charts(*draws)
    assert all(line.is_points for chart in (a, b) for line in chart.lines)
    assert a.lines[0].x.tolist() == [1, 2, 3, 4, 5]
    assert b.lines[0].x.tolist() == pytest.approx([0.1, 0.4, 0.9, 0.5, 0.3])


def test_what_goes_with_a_key_has_no_chart_of_its_own(charts):
    """A module, and the fields that it brings."""
    module = {"kind": "momentum", "beta": 0.9}
    keys = [{"lr": lr, "modules": m} for lr in (1, 2, 3) for m in ([], [module])]
    (chart,) = charts(*((None, one, [n / 10]) for n, one in enumerate(keys)))
    assert [line.label for line in chart.lines] == ["[]", "(not there)"]


def test_a_method_that_has_no_finite_value_is_left_out(charts):
    (chart,) = charts(
        *((None, {"lrate": n}, [n / 10]) for n in (1, 2, 3)), (None, {"lrate": 4}, [float("nan")])
    )
    assert chart.lines[0].x.tolist() == [1, 2, 3]


def test_names_alone_have_no_chart(charts):
    assert charts(*((name, {"mu": n}, [0.1]) for n, name in enumerate("abc"))) == ()


def test_two_runs_have_no_chart(charts):
    assert charts((None, {"mu": 1}, [0.1]), (None, {"mu": 2}, [0.2])) == ()
