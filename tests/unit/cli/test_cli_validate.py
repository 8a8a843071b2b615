"""``simfl validate``."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def broken(scenario: str) -> str:
    """A scenario with a fault in line 1."""
    Path("broken.yaml").write_text(Path(scenario).read_text().replace("rounds: 2", "rounds: 0"))
    return "broken.yaml"


def test_a_good_scenario_is_ok(simfl, scenario):
    result = simfl("validate", scenario)
    assert (result.exit_code, result.output) == (0, "s.yaml: ok\n")


def test_each_file_has_its_line(simfl, scenario, broken):
    result = simfl("validate", broken, scenario, "nope.yaml")
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[:2] == ["broken.yaml:1: rounds: is 0; should be at least 1", "s.yaml: ok"]
    assert lines[2].startswith("nope.yaml: no such file")
    assert len(lines) == 3


def test_what_only_the_data_show_is_found(simfl, scenario):
    result = simfl("validate", scenario, "--set", "client.per_round=5")
    assert result.exit_code == 2
    assert "client.per_round" in result.stdout
    assert "4 clients" in result.stdout


def test_without_data_the_file_alone_is_checked(simfl, scenario):
    result = simfl("validate", "--no-data", scenario, "--set", "client.per_round=5")
    assert (result.exit_code, result.stdout) == (0, "s.yaml: ok\n")


def test_an_error_in_a_users_own_code_is_a_fault(simfl, scenario):
    Path("own_data.py").write_text("def load():\n    return 1 / 0\n")
    source = "data={source: python, path: 'own_data:load'}"
    result = simfl("validate", scenario, "--set", source)
    assert result.exit_code == 2
    assert "s.yaml: ZeroDivisionError: division by zero" in result.stdout
    assert 'own_data.py", line 2' in result.stderr


@pytest.mark.parametrize(
    ("weighting", "is_told"), [("examples", True), ("steps", True), ("uniform", False)]
)
def test_that_scaffolds_optimum_is_the_uniform_means_is_told_in_a_line(
    simfl, weighting: str, is_told: bool
) -> None:
    uneven = ["client.batch_size=28", f"server.weighting={weighting}"]  # of 28 to 30 examples
    result = simfl("validate", "scaffold", *(a for key in uneven for a in ("--set", key)))
    assert (result.exit_code, result.stdout) == (0, "scaffold: ok\n")
    lines = [line for line in result.stderr.splitlines() if "server.weighting" in line]
    assert [f"is '{weighting}'" in line for line in lines] == [True] * is_told
    assert all("the optimum of the uniform mean over clients" in line for line in lines)


def test_nothing_is_told_where_all_clients_count_the_same(simfl) -> None:
    """1,438 examples are twice 719."""
    even = ["data.partition={kind: iid, clients: 2}", "client.per_round=2"]
    even += ["server.weighting=examples"]
    result = simfl("validate", "scaffold", *(a for key in even for a in ("--set", key)))
    assert result.exit_code == 0
    assert "server.weighting" not in result.stderr
