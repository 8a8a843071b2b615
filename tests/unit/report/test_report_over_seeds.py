"""Tables over seeds: targets that some seeds miss, and paired tests, by hand and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report_cases import NOW, SCENARIO, done, records, write_run
from scipy import stats

from simfl.report.over_seeds import paired_table, target_table
from simfl.report.paired import holm, paired_test
from simfl.report.reading import read_run
from simfl.report.study import make_study
from simfl.report.targets import Target


@pytest.fixture
def study(tmp_path):
    """Make a study of methods: by label the accuracies of each seed's rounds of 2 s and 2 KiB."""

    def study(**methods):
        runs = []
        for label, seeds in methods.items():
            for seed, accuracies in enumerate(seeds):
                client = {"optimizer": {"lrate": sum(label.encode())}}
                scenario = SCENARIO | {"seed": seed, "label": label, "client": client}
                rounds = records(accuracies, sent_bytes=1024, received_bytes=1024)
                folder = write_run(tmp_path / f"{label}-{seed}", rounds, scenario=scenario)
                if label != "running":
                    write_run(folder, rounds, scenario=scenario, summary=done())
                runs.append(read_run(folder, now=NOW))
        return make_study(runs, target=None)

    return study


def took(study):
    """Return the columns "reached it", rounds, time and bytes of each group, and the note."""
    table = target_table(study, Target("accuracy", 0.5, from_above=False))
    return [row[1:5] for row in table.rows], table.note


def test_what_a_target_takes_is_the_median_over_seeds(study):
    rows, note = took(study(a=[[0.6], [0.0, 0.0, 0.6], [0.0, 0.6]]))
    assert rows == [
        ("3 of 3", "2 (1 to 3)", "4.0 s (2.0 s to 6.0 s)", "4.00 KiB (2.00 KiB to 6.00 KiB)")
    ]
    assert ">" not in note


def test_a_seed_that_never_reaches_a_target_counts_as_the_latest(study):
    """1 and 2 rounds, and not within 3: a mean over those that did would be 1.5."""
    ((reached, rounds, *_),), note = took(study(a=[[0.6], [0.0, 0.6], [0.0] * 3]))
    assert (reached, rounds) == ("2 of 3", "2 (1 to > 3)")
    assert "written with >" in note


def test_a_seed_without_any_round_has_not_reached_it_either(study):
    ((reached, rounds, *_),), _ = took(study(running=[[0.6], []]))
    assert (reached, rounds) == ("1 of 2", "> 0.5 (1 to > 0)")


def test_where_most_seeds_never_reach_a_target_the_median_is_a_bound(study):
    rows, _ = took(study(a=[[0.6], [0.0] * 3, [0.0] * 3], b=[[0.0] * 2], c=[[0.6], [0.0] * 3]))
    # Of two, the median is their mean: above (1 + 3) / 2.
    assert [row[1] for row in rows] == ["> 3 (1 to > 3)", "> 2", "> 2 (1 to > 3)"]


def test_a_run_that_is_not_done_is_told_from_one_that_never_reaches_the_target(study):
    _, note = took(study(running=[[0.0]], a=[[0.0]]))
    assert "(1 of them in runs that have not finished)" in note


def test_the_t_test_is_students_by_hand():
    """Differences 0.1, 0.2, 0.3: t = 0.2 / (0.1 / sqrt(3)) = 3.4641.

    With 2 degrees of freedom the two-sided p is 1 - t / sqrt(t² + 2) = 1 - 3.4641 / 3.7417.
    """
    found = paired_test({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.5, 2: 0.6, 3: 0.1})
    assert found.differences == pytest.approx((0.1, 0.2, 0.3))
    assert found.t_p == pytest.approx(1 - math.sqrt(12 / 14))


def test_wilcoxons_test_is_exact_by_hand():
    """Five differences of one sign: of the 32 signs, two are as far from even: p = 2 / 32."""
    a = {seed: 0.5 + seed / 7 for seed in range(5)}
    assert paired_test(a, dict.fromkeys(a, 0.3)).wilcoxon_p == 0.0625


def test_both_tests_are_scipys_paired_ones():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 9))
    found = paired_test(dict(enumerate(a)), dict(enumerate(b)))
    assert found.t_p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_equal_numbers_have_no_p_value():
    found = paired_test({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})
    assert math.isnan(found.t_p)
    assert math.isnan(found.wilcoxon_p)


def test_one_seed_in_common_is_no_test():
    assert paired_test({0: 1.0, 1: 2.0}, {1: 1.0, 2: 3.0}) is None


def test_holms_correction_leaves_out_what_has_no_p_value():
    """Of two: the smaller one twice, the larger one once, but never below the smaller one."""
    adjusted = holm([0.04, math.nan, 0.03])
    assert adjusted[0] == adjusted[2] == 0.06
    assert math.isnan(adjusted[1])


def test_methods_are_tested_pair_by_pair(study):
    table = paired_table(study(a=[[0.5], [0.7], [0.9]], b=[[0.4], [0.5], [0.6]], c=[[0.1]]))
    ((*row,),) = table.rows  # c has a single seed
    assert row[:4] == ["a", "b", "3", "0.2000"]
    # 0.2 ± 4.30265 * 0.1 / sqrt(3)
    assert row[4:] == ["-0.0484 to 0.4484", "0.0742", "0.2500"]
    assert "with 3, Wilcoxon's p cannot be below 0.25" in table.note


def test_many_methods_are_tested_against_the_best(study):
    methods = {name: [[0.1 * n], [0.1 * n + 0.01 * n * n]] for n, name in enumerate("abcdef")}
    table = paired_table(study(**methods))
    assert [row[:2] for row in table.rows] == [("f", other) for other in "edcba"]
    assert table.header[-1] == "p, t test, Holm"


def test_a_single_method_is_not_tested(study):
    assert paired_table(study(a=[[0.5], [0.6]])) is None
