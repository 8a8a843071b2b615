"""Claims of papers and their verdicts; the experiments that are checked in."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from common import ROOT, Claim, read_results, table


def each_with(file: str):
    """Run a test with each experiment's folder that has a file."""
    folders = sorted(path.parent for path in ROOT.glob(f"experiments/*/{file}"))
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


def claim(**more):
    return Claim("Table 1", "a is higher", "accuracy", "label == 'a'", "label == 'b'", **more)


def results(a, b):
    rows = [("a", seed, value) for seed, value in enumerate(a)]
    rows += [("b", seed, value) for seed, value in enumerate(b)]
    return pd.DataFrame(rows, columns=["label", "seed", "accuracy"])


@pytest.mark.parametrize(
    ("a", "more", "verdict"),
    [
        # Differences of 1, 2, 3: 2 ± 4.303 * 1 / sqrt(3) = 2 ± 2.484, of which 0 is a part.
        ([1.0, 2.0, 3.0], {}, "not held"),
        # 3, 4, 5: 4 ± 2.484 is above 0 and 1.5, but not above 1.6.
        ([3.0, 4.0, 5.0], {}, "held"),
        ([3.0, 4.0, 5.0], {"by": 1.5}, "held"),
        ([3.0, 4.0, 5.0], {"by": 1.6}, "not held"),
        ([-3.0, -4.0, -5.0], {}, "the opposite"),
        # -1, 0, 1: 0 ± 2.484 is within 2.5, but not within 2.4.
        ([-1.0, 0.0, 1.0], {"within": 2.5}, "held"),
        ([-1.0, 0.0, 1.0], {"within": 2.4}, "not held"),
        ([1.0], {}, "not tried"),
    ],
)
def test_a_claim_is_held_if_the_interval_of_the_differences_says_so(a, more, verdict):
    made = claim(**more)
    differences = made.differences(results(a, [0.0] * 3))
    assert differences == a
    assert made.verdict(differences) == verdict


def test_several_runs_of_a_seed_count_with_their_mean():
    twice = pd.concat([results([1.0, 2.0], [0.0, 0.0]), results([3.0, 4.0], [1.0, 2.0])])
    assert claim().differences(twice) == [1.5, 2.0]


def experiment_of(folder: Path):
    spec = importlib.util.spec_from_file_location(f"run_{folder.name}", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EXPERIMENT


@each_with("results.csv")
def test_the_table_and_the_readme_are_those_of_the_results(folder):
    experiment = experiment_of(folder)
    kept = read_results(folder)
    text = table(experiment, experiment.choose(kept.assign(folder="")))
    assert text == (folder / "table.md").read_text()
    assert "not tried" not in text
    assert all(re.fullmatch("[0-9a-f]{12}", commit) for commit in kept["commit"])
    for file in ("results.csv", "table.md", "figure.svg"):
        assert f"({file})" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.ray
@each_with("run.py")
def test_an_experiment_runs_in_short_and_is_not_run_again(folder, tmp_path):
    command = [sys.executable, folder / "run.py", "--quick", "--out", tmp_path]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    found = {file: (tmp_path / file).read_bytes() for file in ("results.csv", "figure.svg")}
    ran = len(list(csv.DictReader(found["results.csv"].decode().splitlines())))
    assert first.stdout.count("  done  ") + first.stderr.count("  done  ") == ran
    assert "held**" in (tmp_path / "table.md").read_text()

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "  done  " not in again.stdout + again.stderr
    assert all((tmp_path / file).read_bytes() == content for file, content in found.items())
