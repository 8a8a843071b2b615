"""Figures and tables for a paper."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from report_cases import NOW, SCENARIO, done, records, write_run
from typer.testing import CliRunner

from simfl.cli.main import app
from simfl.errors import InputError
from simfl.report.bands import View
from simfl.report.charts import HeatMap, Line, Lines, colour_of, name_of
from simfl.report.figures import draw_figure
from simfl.report.latex import latex
from simfl.report.reading import read_run
from simfl.report.report import make_report
from simfl.report.study import make_study
from simfl.report.targets import parse_target
from simfl.report.writing import write_report

PICTURES = ("pdf", "svg", "png")
MAP = HeatMap("m", "x", "y", ("1", "2"), ("a",), np.array([[0.5, np.nan]]), (("0.5", ""),))


def lines(*labels, **more):
    x = np.array([1.0, 2.0, 3.0])
    return Lines(
        "t", "x", "y", tuple(Line(s, colour_of(n), x, x + n) for n, s in enumerate(labels)), **more
    )


@pytest.fixture
def study(tmp_path):
    """Make a study of methods: by label the final accuracies, one for each seed."""

    def study(target=None, view=None, **methods):
        runs = []
        for label, accuracies in methods.items():
            for seed, accuracy in enumerate(accuracies):
                scenario = SCENARIO | {"seed": seed, "label": label}
                scenario["client"] = {"optimizer": {"lrate": len(runs) - seed}}
                folder = tmp_path / f"{label}-{seed}"
                rounds = records([0.25, accuracy], sent_bytes=1024, received_bytes=1024)
                write_run(folder, rounds, scenario=scenario, summary=done())
                runs.append(read_run(folder, now=NOW))
        chosen = target and parse_target(target, runs)
        return make_study(runs, target=chosen, view=view or View())

    return study


@pytest.mark.parametrize("format", PICTURES)
@pytest.mark.parametrize("chart", [lines("a", "b", log="xy"), MAP], ids=["lines", "map"])
def test_a_figure_has_the_same_bytes_every_time(tmp_path, chart, format):
    for name in "ab":
        draw_figure(chart, tmp_path / name, width=3.3, format=format)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    assert b"Date" not in content


@pytest.mark.parametrize("letters", [6, 30, 90])
def test_a_figure_is_as_wide_as_it_is_asked_for_and_holds_all_names(tmp_path, monkeypatch, letters):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: figures.append(figure))
    labels = [f"{n}{'x' * letters}" for n in range(7)]
    draw_figure(lines(*labels), tmp_path / "f", width=3.3, format="pdf")
    (figure,) = figures
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == 3.3
    (axes,), (legend,) = figure.axes, figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert 0 <= box.y0 < box.y1 < axes.get_window_extent().y0
    assert axes.bbox.width > 0.7 * figure.bbox.width
    assert axes.bbox.height > 0.35 * figure.bbox.width


def test_the_names_of_a_svg_are_shapes_that_need_no_font(tmp_path):
    draw_figure(lines("a", "b"), tmp_path / "f.svg", width=3.3, format="svg")
    root = ET.parse(tmp_path / "f.svg").getroot()
    assert not root.findall(".//{http://www.w3.org/2000/svg}text")
    assert root.attrib["width"] == f"{72 * 3.3:g}pt"


@pytest.mark.skipif(not shutil.which("pdffonts"), reason="needs poppler")
def test_a_pdf_has_fonts_that_publishers_take(tmp_path):
    draw_figure(lines("a", "b"), tmp_path / "f.pdf", width=3.3, format="pdf")
    listed = subprocess.run(["pdffonts", tmp_path / "f.pdf"], capture_output=True, check=True)
    assert b"Type 3" not in listed.stdout


def test_charts_are_chosen_by_their_metric_or_their_title(study):
    report = make_report(study(a=[0.5], b=[0.6]), with_data=False)
    names = [name_of(chart) for chart in report.charts]
    assert len(set(names)) == len(names)
    assert {"accuracy", "loss", "train_loss", "accuracy-over-time"} <= set(names)


def test_axes_are_logarithmic_where_asked(study):
    report = make_report(study(view=View(log="y"), a=[0.5]), with_data=False)
    assert {chart.log for chart in report.charts if isinstance(chart, Lines)} == {"y"}


def test_on_a_logarithmic_axis_a_band_below_zero_ends_a_quarter_below_the_curve():
    """The curve goes from 0.01 to 1, two decades: half a decade below is 0.00316. Above the line is
    a little room."""
    from simfl.report.charts import Band

    y = np.array([1.0, 0.1, 0.01])
    band = Band(np.full(3, -1.0), np.full(3, 1.0))
    (line,) = lines("a").lines
    chart = Lines("t", "x", "y", (dataclasses.replace(line, y=y, band=band),), log="y")
    assert chart.y_range == pytest.approx((10**-2.5, 10 ** (0.15 * 0.5)))


def test_the_numbers_of_all_rounds_come_with_the_keys_that_differ(study, tmp_path):
    report = make_report(study(a=[0.5, 0.6], b=[0.7]), with_data=False)
    write_report(report, tmp_path / "r.csv", format="csv", written="")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    shown = [(r["group"], r["seed"], r["client.optimizer.lrate"], r["accuracy"]) for r in rows]
    assert shown[1::2] == [
        ("a", "0", "0", "0.5"),
        ("a", "1", "0", "0.6"),
        ("b", "0", "2", "0.7"),
    ]
    assert "rounds" not in rows[0]  # the same in all
    assert "label" not in rows[0]  # it is the group


def tables(text):
    return [
        [c.strip() for c in row.split("&")] for row in re.findall(r"^ {4}(.*&.*) \\\\$", text, re.M)
    ]


def test_a_latex_table_has_means_with_bands_and_the_best_in_bold(study):
    """0.6, 0.7, 0.8: mean 0.7, s 0.1; 0.70, 0.72: mean 0.71, s 0.0141."""
    text = latex(study(a_1=[0.6, 0.7, 0.8], b=[0.70, 0.72]), ["accuracy", "loss"])
    assert tables(text)[:3] == [
        ["", "Test accuracy", "Test loss"],
        [r"a\_1", r"$0.70 \pm 0.10$", r"$0.30 \pm 0.10$"],
        ["b", r"$\mathbf{0.71} \pm 0.01$", r"$\mathbf{0.29} \pm 0.01$"],
    ]
    assert r"\usepackage{booktabs}" in text.splitlines()[0]
    assert "2 to 3 seeds" in text


@pytest.mark.parametrize(
    ("band", "cell"),
    [
        ("se", r"$0.700 \pm 0.058$"),  # 0.1 / sqrt(3)
        ("ci", r"$0.70 \pm 0.25$"),  # 4.30265 of them
        ("range", "$0.70$ ($0.60$ to $0.80$)"),
        ("none", "$0.7000$"),
    ],
)
def test_a_latex_table_has_the_band_that_is_asked_for(study, band, cell):
    found = latex(study(view=View(band=band), a=[0.6, 0.7, 0.8]), ["accuracy"])
    assert tables(found)[1] == ["a", cell]


def test_a_mean_over_some_of_the_seeds_is_not_the_best(study, tmp_path):
    """The seed without a value may be the bad one."""
    found = study(a=[0.5, 0.5], b=[0.9, float("nan")])
    assert tables(latex(found, ["accuracy"]))[1][1].startswith(r"$\mathbf{0.5")


def test_latex_shows_names_literally(study):
    text = latex(study(**{"50%_{x}^~\\&#$": [0.5], "b": [0.6]}))
    assert r"50\%\_\{x\}\textasciicircum{}\textasciitilde{}\textbackslash{}\&\#\$ &" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX")
def test_latex_compiles(study, tmp_path):
    text = latex(study("accuracy=0.55", **{"50%_{x}^~\\&#$": [0.5, 0.6], "b": [0.6, 0.62]}))
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{text}\n\\end{{document}}")
    command = ["pdflatex", "-halt-on-error", "t.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_a_table_of_runs_without_rounds_is_refused(tmp_path):
    write_run(tmp_path / "a", [], scenario=SCENARIO, summary=done())
    runs = [read_run(tmp_path / "a", now=NOW)]
    with pytest.raises(InputError, match="no run has a metric; finish a round"):
        latex(make_study(runs, target=None, view=View()))


def report_in(monkeypatch, tmp_path, *arguments):
    """Run ``simfl report`` on the folder; return the axes of the figures that it draws."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: figures.append(figure))
    ran = CliRunner().invoke(app, ["report", str(tmp_path), "--format", "svg", *arguments])
    return ran, [figure.axes for figure in figures]


def write_grid(tmp_path, *, without=()):
    """Write runs of two methods at two learning rates and two numbers of epochs, two seeds each."""
    for lrate, epochs, method, seed in itertools.product((0.1, 10.0), (1, 5), "ab", (0, 1)):
        if (lrate, epochs) in without:
            continue
        client = {"epochs": epochs, "optimizer": {"lrate": lrate}, "batch_size": ord(method)}
        scenario = SCENARIO | {"seed": seed, "label": method, "client": client}
        final = epochs / 10 + lrate / 100 + (method == "b") / 4
        folder = tmp_path / f"{method}-{lrate}-{epochs}-{seed}"
        write_run(folder, records([0.25, final + seed / 64]), scenario=scenario, summary=done())


FACETS = ("--chart", "accuracy", "--facet", "client.optimizer.lrate", "--facet", "client.epochs")


def test_facets_are_a_chart_for_each_pair_of_values_with_a_colour_for_each_method(
    tmp_path, monkeypatch
):
    write_grid(tmp_path)
    ran, (axes,) = report_in(monkeypatch, tmp_path, *FACETS)
    assert ran.exit_code == 0, ran.output
    assert [one.get_title() for one in axes] == ["lrate = 0.1", "lrate = 10.0", "", ""]
    rows = [" ".join(one.get_ylabel().split()) for one in axes]
    assert rows == ["epochs = 1 test accuracy", "", "epochs = 5 test accuracy", ""]
    places = itertools.product((1, 5), (0.1, 10.0))
    for one, (epochs, lrate) in zip(axes, places, strict=True):
        a, b = one.lines
        # The mean of two seeds, which are 1/64 apart.
        expected = epochs / 10 + lrate / 100 + 1 / 128
        assert a.get_ydata().tolist() == pytest.approx([0.25, expected])
        assert b.get_ydata().tolist() == pytest.approx([0.25, expected + 0.25])
        assert (a.get_color(), b.get_color()) == (colour_of(0), colour_of(1))
    for left, right in (axes[:2], axes[2:]):
        assert left.get_ylim() == right.get_ylim()
        low, high = left.get_ylim()
        ends = [y for one in (left, right) for line in one.lines for y in line.get_ydata()]
        assert low < min(ends) < max(ends) < high


def test_a_pair_of_values_that_no_run_has_is_left_empty(tmp_path, monkeypatch):
    write_grid(tmp_path, without=[(10.0, 1)])
    _, (axes,) = report_in(monkeypatch, tmp_path, *FACETS)
    assert [one.axison for one in axes] == [True, False, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facet", "client.epoch"], "no run has this key. Did you mean 'client.epochs'?"),
        (["--facet", "seed"] * 3, "takes a key for columns and one for rows, not 3"),
        (["--facet", "seed", "--format", "html"], "is for figures, not for html"),
        (["--facet", "seed", "--out", "all.svg"], "is one file, for"),
    ],
)
def test_facets_that_cannot_be_drawn_are_refused_in_one_line(
    tmp_path, monkeypatch, arguments, message
):
    write_grid(tmp_path)
    ran, drawn = report_in(monkeypatch, tmp_path, *arguments)
    assert ran.exit_code == 2
    assert message in " ".join(ran.output.split())
    assert not drawn


def test_a_single_evaluation_is_a_point_and_rounds_are_whole_numbers():
    from matplotlib.figure import Figure

    from simfl.report.draw_matplotlib import draw_chart

    axes = Figure().subplots()
    (line,) = lines("a").lines
    alone = dataclasses.replace(line, x=np.array([4.0, 8.0]), y=np.array([0.5, np.nan]))
    draw_chart(Lines("t", "round", "accuracy", (alone,)), axes)
    assert axes.lines[0].get_marker() == "o"
    assert all(tick.is_integer() for tick in axes.get_xticks())
