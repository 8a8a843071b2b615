"""What of a chart is shown."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from simfl.report.charts import (
    INK,
    RUN_COLOURS,
    Band,
    Bars,
    Entry,
    Histogram,
    Line,
    Lines,
    Stack,
    colour_of,
    legend_of,
    own_legend,
)
from simfl.report.draw_matplotlib import draw_overview
from simfl.report.draw_plotly import specification


def chart(*bands):
    """Draw lines from 0 to 1, with a band each: low and high, or None."""
    x = np.array([1.0, 2.0])
    lines = tuple(
        Line("a", "#000000", x, np.array([0.0, 1.0]), band and Band(*(np.full(2, e) for e in band)))
        for band in bands
    )
    return Lines("t", "x", "y", lines)


def test_a_chart_without_bands_shows_all():
    assert chart(None).y_range is None


def test_a_band_that_stays_near_its_curve_is_shown_whole():
    assert chart((-0.25, 1.25)).y_range is None


def test_a_band_that_dwarfs_its_curve_is_cut_a_quarter_beyond_it():
    assert chart((-11.0, 12.0)).y_range == (-0.25, 1.25)
    assert chart((-11.0, 1.125)).y_range == (-0.25, 1.125 + 0.15 * 0.25), "and a little room"


def test_a_band_without_an_edge_anywhere_cuts_nothing():
    assert chart((np.nan, np.nan)).y_range is None


def test_the_legend_names_a_line_once_whatever_belongs_to_it():
    x = np.array([1.0])
    worst = Line("a, worst", "#000000", x, x, is_dashed=True, belongs_to="a")
    lines = (Line("a", "#000000", x, x), worst, Line("b", "#ffffff", x, x))
    chart = Lines("t", "x", "y", lines)
    a, b = legend_of(chart)
    assert (a, b) == (Entry("a", "#000000"), Entry("b", "#ffffff"))
    assert own_legend(chart, key=[a]) == (b,)
    # A click on "a" switches both of its lines.
    assert [trace["legendgroup"] for trace in specification(chart)["data"]] == ["a", "a", "b"]


def test_where_there_is_one_colour_there_is_no_legend():
    assert legend_of(Bars("t", "x", "y", ("1",), (Stack("busy", "#000000", (1.0,)),))) == ()


def test_the_runs_of_a_sweep_have_a_colour_each():
    assert len({colour_of(index) for index in range(18)}) == 18 == len(RUN_COLOURS)


def test_a_histogram_of_several_is_drawn_from_its_first_edge_to_its_last():
    stacks = tuple(Stack(name, "#000000", (1.0, 2.0)) for name in "abc")
    traces = specification(Histogram("t", "x", "y", np.array([0.0, 0.5, 1.0]), stacks))["data"]
    for trace in traces:
        assert trace["x"] == [0.0, 0.5, 1.0]
        # From 0 to 0.5 it is 1, from 0.5 to 1 it is 2.
        assert (trace["y"], trace["line"]["shape"]) == ([1.0, 2.0, 2.0], "hv")


def test_what_a_run_is_called_is_no_link_in_a_chart():
    """plotly.js makes links and more of a few tags; in JSON, a "<" is what they begin with."""
    link = '<a href="https://host.example">see</a>'
    line = Line(link, "#000000", np.array([1.0]), np.array([1.0]))
    bars = Bars(link, link, link, (link,), (Stack(link, "#000000", (1.0,)),))
    for chart in (Lines(link, link, link, (line,)), bars):
        text = json.dumps(specification(chart))
        assert "host.example" in text
        assert "<" not in text


@pytest.mark.filterwarnings("error")
def test_a_picture_has_room_for_the_longest_names(tmp_path, monkeypatch):
    """Every text is within the picture, a chart is half of it, and no names overlap."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: figures.append(figure))
    names = [f"{n} federated averaging with a very long name, {'x' * 30}" for n in range(8)]
    key = [Entry(name, colour_of(n)) for n, name in enumerate(names)]
    x = np.arange(3.0)
    lines = Lines("Loss", "round", "loss", tuple(Line(e.label, e.colour, x, x) for e in key))
    bars = [
        Bars("Phases", "s", "", tuple(names[:n]), (Stack("train", INK, (1.0,) * n),), True)
        for n in (4, 8)
    ]
    draw_overview([lines, *bars], tmp_path / "r.png", title="a title of many words " * 12, key=key)
    (figure,) = figures
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    (legend,) = figure.legends
    for text in (legend.get_title(), *legend.get_texts()):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    for axes in figure.axes[:3]:
        assert axes.bbox.width > width / 4
        shown = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(shown))


@pytest.mark.filterwarnings("error")
def test_letters_that_the_font_lacks_draw_no_warning(tmp_path):
    draw_overview([], tmp_path / "r.png", title="\u8054\u90a6\u5b66\u4e60")
    assert (tmp_path / "r.png").exists()
