"""From a scenario with a sweep to its trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from simfl.errors import ScenarioError
from simfl.scenario import load_scenario
from simfl.scenario.sweeps import load_sweep

SCENARIO = """\
rounds: 2
data: {source: digits, partition: {kind: iid, clients: 4}}
model: {kind: logistic}
client:
  optimizer: {lrate: 0.01}
"""

SWEEP = """\
sweep:
  over:
    client.optimizer.lrate: [0.1, 0.2]
    client.batch_size: [8, 0]
"""


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SCENARIO)
    return "s.yaml"


def faults(path: str, **options: list[str]) -> list[str]:
    with pytest.raises(ScenarioError) as error:
        load_sweep(path, **options)
    return error.value.faults


def test_all_combinations_are_tried_and_the_last_list_changes_fastest(path):
    plan = load_sweep(path, over=["client.optimizer.lrate=0.1,0.2", "seed=0..2"])
    pairs = [tuple(trial.values.values()) for trial in plan.trials]
    assert pairs == [(0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0), (0.2, 1), (0.2, 2)]
    assert [trial.number for trial in plan.trials] == list(range(6))


def test_a_trials_scenario_is_the_one_with_these_overrides(path):
    plan = load_sweep(path, over=["client.optimizer.modules=[],[[momentum, {beta: 0.8}]]"])
    modules = "client.optimizer.modules=[[momentum, {beta: 0.8}]]"
    alone = load_scenario(path, overrides=[modules])
    assert plan.scenario(plan.trials[1].values) == alone
    assert plan.scenario(plan.trials[1].values).fingerprint() == alone.fingerprint()


def test_samples_repeat_the_grid_with_draws_that_follow_from_the_seed(path):
    over = ["seed=0..1", "client.optimizer.lrate={loguniform: [0.001, 1.0]}"]
    plan = load_sweep(path, over=over, overrides=["sweep.samples=3"])
    assert [trial.values["seed"] for trial in plan.trials] == [0, 1, 0, 1, 0, 1]
    rates = [trial.values["client.optimizer.lrate"] for trial in plan.trials]
    assert len(set(rates)) == 6
    again = load_sweep(path, over=over, overrides=["sweep.samples=3"])
    assert [trial.values for trial in again.trials] == [trial.values for trial in plan.trials]
    other = load_sweep(path, over=over, overrides=["sweep.samples=3", "sweep.seed=1"])
    assert not set(rates) & {trial.values["client.optimizer.lrate"] for trial in other.trials}


def test_over_on_the_command_line_replaces_and_adds_to_the_files(path):
    Path(path).write_text(SCENARIO + SWEEP)
    plan = load_sweep(path, over=["client.batch_size=16", "seed=1"])
    assert [tuple(trial.values.values()) for trial in plan.trials] == [(0.1, 16, 1), (0.2, 16, 1)]


def test_a_value_that_cannot_be_is_told_before_anything_starts_with_its_line(path):
    Path(path).write_text(SCENARIO + SWEEP)
    trial = "(in trial lrate=0.1,batch_size=0)"
    assert faults(path) == [f"s.yaml:9: client.batch_size: is 0; should be at least 1 {trial}"]
    assert faults(path, over=["client.batch_size=0"]) == [
        f"--over: client.batch_size: is 0; should be at least 1 {trial}"
    ]


@pytest.mark.parametrize(
    ("over", "fault"),
    [
        ("client.optimizer.lrat=1,2", "client.optimizer.lrat: is 1, but there is no such key. Did"),
        ("rounds.foo=1,2", "rounds: is 2, which has no 'foo'; set rounds as a whole"),
        ("seed", "'seed' is not of the form key.path=values"),
        ("seed=[1", "is not valid YAML"),
        ("seed={uniform: 3}", "sweep.over.seed: is {uniform: 3}; uniform should have a list"),
        ("output.dir=a,b", "sweep.over.output.dir: cannot be swept; set output for all trials"),
        ("seed=0..9999,10000", "makes more than 10,000 trials"),
    ],
)
def test_a_fault_is_one_line(path, over, fault):
    (line,) = faults(path, over=[over])
    assert fault in line


def test_a_sweep_that_tries_nothing_says_how(path):
    (line,) = faults(path)
    assert "tries nothing; add --over" in line


def test_what_a_searcher_may_propose_is_checked_at_both_ends(path):
    over = ["client.optimizer.lrate={uniform: [-1, 1]}"]
    (line,) = faults(path, over=over, overrides=["sweep.searcher=optuna"])
    assert line == "--over: client.optimizer.lrate: is -1; should be at least 0"


def test_names_of_folders_are_readable_and_safe(path):
    over = ["client.optimizer.lrate=0.1", "client.optimizer.modules=[[adam, {eps: 1.0e-3}]]"]
    (trial,) = load_sweep(path, over=over).trials
    assert trial.name == "0-lrate=0.1,modules=_adam+_eps_0.001"
    (trial,) = load_sweep(path, over=["checkpoint.location='../../x y'"]).trials
    assert trial.name == "0-location=.._.._x_y"


def test_keys_that_end_alike_are_written_out(path):
    over = ["client.optimizer.lrate=0.1", "server.optimizer.lrate=1.0"]
    (trial,) = load_sweep(path, over=over).trials
    assert trial.label == "client.optimizer.lrate=0.1,server.optimizer.lrate=1"


def test_a_sweep_has_no_part_in_a_runs_fingerprint_and_resolved_scenario(path):
    Path(path).write_text(SCENARIO + SWEEP)
    swept, alone = load_scenario(path), load_scenario(path, overrides=["sweep=null"])
    assert swept.fingerprint() == alone.fingerprint()
    assert "sweep" not in alone.to_dict()
    assert load_scenario(swept.to_dict()) == swept


def test_a_trials_name_is_cut_by_bytes(minimal):
    """A letter of Chinese has three bytes; a file's name has 255 at most."""
    plan = load_sweep(minimal, over=["name=" + "\u8054" * 60 + ",b"])
    name = plan.trials[0].name
    assert len(name.encode()) <= 110
    assert name == "0-name=" + "\u8054" * 31
