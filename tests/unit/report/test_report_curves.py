"""Curves over seeds, by hand and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report_cases import NOW, SCENARIO, records, write_run
from scipy import stats

from simfl.report.bands import View
from simfl.report.curves import bin_means, bin_names, bins_of, curve
from simfl.report.reading import read_run


@pytest.fixture
def seeds(tmp_path):
    """Make runs of these accuracies, a list for each seed."""

    def seeds(*accuracies):
        return [
            read_run(
                write_run(tmp_path / str(n), records(a), scenario=SCENARIO | {"seed": n}), now=NOW
            )
            for n, a in enumerate(accuracies)
        ]

    return seeds


def test_the_mean_is_of_what_is_made_of_each_number(seeds):
    """The mean of 0.5² and 1² is 0.625, and not the 0.5625 that their mean squared is."""
    found = curve(seeds([0.5], [1.0]), "accuracy", of=lambda value: value**2)
    assert found.mean.tolist() == [0.625]


def test_the_band_of_three_seeds_is_students_by_hand(seeds):
    """Values 0.6, 0.7, 0.8: mean 0.7, s = 0.1, and t(0.975, 2) = 4.30265 in every table.

    So the band is 0.7 ± 4.30265 * 0.1 / sqrt(3) = 0.7 ± 0.248414.
    """
    found = curve(seeds([0.6], [0.7], [0.8]), "accuracy")
    assert found.mean.tolist() == pytest.approx([0.7])
    assert (found.high - found.mean).tolist() == pytest.approx([0.248414], abs=1e-6)
    assert (found.mean - found.low).tolist() == pytest.approx([0.248414], abs=1e-6)


def test_the_band_is_scipys_interval(seeds):
    rng = np.random.default_rng(0)
    values_SR = rng.uniform(size=(5, 4))
    found = curve(seeds(*values_SR.tolist()), "accuracy")
    low_R, high_R = stats.t.interval(
        0.95, 4, loc=values_SR.mean(axis=0), scale=stats.sem(values_SR, axis=0)
    )
    assert found.low == pytest.approx(low_R)
    assert found.high == pytest.approx(high_R)


@pytest.mark.parametrize(
    ("band", "half"), [("sd", 0.1), ("se", 0.1 / math.sqrt(3)), ("range", 0.1), ("none", math.nan)]
)
def test_other_bands_are_those_that_are_asked_for(seeds, band, half):
    found = curve(seeds([0.6], [0.7], [0.8]), "accuracy", view=View(band=band))
    assert (found.high - found.mean).tolist() == pytest.approx([half], nan_ok=True)
    assert (found.mean - found.low).tolist() == pytest.approx([half], nan_ok=True)


def test_each_seed_is_smoothed_over_its_last_evaluations(seeds):
    """Rounds 1, 2 and 4 of one seed, 1, 2 and 3 of another, over two evaluations each."""
    runs = seeds([0.2, 0.4, None, 0.8], [0.0, 0.2, 0.4, None])
    found = curve(runs, "accuracy", view=View(smooth=2, band="range"))
    assert found.rounds.tolist() == [1, 2, 3, 4]
    assert found.mean.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.6])
    assert found.high[:2].tolist() == pytest.approx([0.2, 0.3])


def test_one_seed_has_no_band(seeds):
    found = curve(seeds([0.6, 0.7]), "accuracy")
    assert found.mean.tolist() == [0.6, 0.7]
    assert not found.has_band


def test_a_round_that_fewer_seeds_have_is_over_those(seeds):
    found = curve(seeds([0.6, 0.8], [0.7]), "accuracy")
    assert found.rounds.tolist() == [1, 2]
    assert found.mean.tolist() == pytest.approx([0.65, 0.8])
    assert found.seeds.tolist() == [2, 1]
    assert [math.isnan(edge) for edge in found.low] == [False, True]


def test_rounds_that_were_not_evaluated_are_not_in_the_curve(seeds):
    assert curve(seeds([None, 0.7, None]), "accuracy").rounds.tolist() == [2]


def test_what_is_not_finite_is_in_no_mean(seeds):
    assert curve(seeds([math.nan], [0.5]), "accuracy").mean.tolist() == [0.5]


def test_what_no_run_has_is_no_curve(seeds):
    assert curve(seeds([0.5]), "mae") is None


def test_rounds_are_averaged_in_at_most_sixty_bins_of_neighbours(tmp_path):
    """120 rounds make 60 bins of two: the first is the mean of 0 and 1, the last of 118 and 119."""
    run = read_run(write_run(tmp_path / "a", records([0.5] * 120)), now=NOW)
    bins = bins_of(120)
    means = bin_means(np.arange(120.0), bins)
    assert len(means) == 60
    assert means[[0, 1, -1]].tolist() == [0.5, 2.5, 118.5]
    assert bin_names(run, bins)[:1] + bin_names(run, bins)[-1:] == ("1–2", "119–120")
