"""What of a chart is shown."""

from __future__ import annotations

import json

import numpy as np

from simfl.report.charts import Band, Bars, Line, Lines, Stack
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
    assert chart((-11.0, 1.125)).y_range == (-0.25, 1.125)


def test_a_band_without_an_edge_anywhere_cuts_nothing():
    assert chart((np.nan, np.nan)).y_range is None


def test_what_a_run_is_called_is_no_link_in_a_chart():
    """plotly.js makes links and more of a few tags; in JSON, a "<" is what they begin with."""
    link = '<a href="https://host.example">see</a>'
    line = Line(link, "#000000", np.array([1.0]), np.array([1.0]))
    bars = Bars(link, link, link, (link,), (Stack(link, "#000000", (1.0,)),))
    for chart in (Lines(link, link, link, (line,)), bars):
        text = json.dumps(specification(chart))
        assert "host.example" in text
        assert "<" not in text
