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

CASES = """\
sweep:
  cases:
    plain: {}
    scaffold:
      client.optimizer.modules: [scaffold-client]
      server.optimizer.modules: [scaffold-server]
  over: {seed: 0..1}
"""
"""From line 6 on."""


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


def test_seeds_repeat_all_values_and_their_draws(path):
    over = ["client.batch_size=8,16", "client.optimizer.lrate={loguniform: [0.001, 1.0]}"]
    plan = load_sweep(path, over=over, overrides=["sweep.samples=2", "sweep.seeds=1..3"])
    assert plan.num_trials == len(plan.trials) == 12
    assert [trial.values["seed"] for trial in plan.trials] == [1, 2, 3] * 4
    rates = [trial.values["client.optimizer.lrate"] for trial in plan.trials]
    assert rates == [rate for rate in rates[::3] for _ in range(3)]
    assert len(set(rates)) == 4
    once = load_sweep(path, over=over, overrides=["sweep.samples=2"])
    assert [t.values["client.optimizer.lrate"] for t in once.trials] == rates[::3]


def test_seeds_alone_are_a_sweep(path):
    plan = load_sweep(path, overrides=["sweep.seeds=[4, 2]"])
    assert [dict(trial.values) for trial in plan.trials] == [{"seed": 4}, {"seed": 2}]


@pytest.mark.parametrize(
    ("sweep", "fault"),
    [
        ("sweep.seeds=[0,-1]", "is [0, -1]; should be whole numbers from 0 on, such as 0..4"),
        ("sweep.seeds={uniform: [0, 1]}", "should be whole numbers from 0 on, such as 0..4"),
        ("sweep.seeds=[1,1]", "is [1, 1], which has a seed twice; leave one out"),
    ],
)
def test_seeds_that_cannot_be_are_refused(path, sweep, fault):
    (line,) = faults(path, overrides=[sweep])
    assert line.startswith("--set: sweep.seeds: ")
    assert fault in line


def test_seeds_stand_in_one_place_and_are_not_stopped_early(path):
    seeds = "sweep.seeds=0..1"
    (line,) = faults(path, overrides=[seeds], over=["seed=0..1"])
    assert line == "--over: sweep.over.seed: sweep.seeds sets it, too; remove one of the two"
    (line,) = faults(path, overrides=[seeds, "sweep.asha={}"], over=["client.batch_size=8"])
    assert "would stop hard seeds rather than bad values; remove sweep.asha or" in line


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
    Path(path).write_text(SCENARIO + SWEEP + "  cases: {a: {rounds: 3}}\n")
    swept, alone = load_scenario(path), load_scenario(path, overrides=["sweep=null"])
    assert swept.fingerprint() == alone.fingerprint()
    assert "sweep" not in alone.to_dict()
    assert load_scenario(swept.to_dict()) == swept


def test_each_case_is_tried_with_all_of_over_and_is_the_trials_label(path):
    Path(path).write_text(SCENARIO + CASES)
    plan = load_sweep(path)
    assert [dict(trial.values) for trial in plan.trials] == [
        {"label": label, "seed": seed} for label in ("plain", "scaffold") for seed in (0, 1)
    ]
    assert plan.trials[3].name == "3-label=scaffold,seed=1"


def test_a_cases_trial_is_the_scenario_with_all_that_it_sets(path):
    Path(path).write_text(SCENARIO + CASES)
    plan = load_sweep(path)
    modules = ["client.optimizer.modules=[scaffold-client]"]
    modules += ["server.optimizer.modules=[scaffold-server]"]
    alone = ["sweep=null", "label=scaffold", "seed=1", *modules]
    assert plan.scenario(plan.trials[3].values) == load_scenario(path, overrides=alone)
    plain = ["sweep=null", "label=plain", "seed=0"]
    assert plan.scenario(plan.trials[0].values) == load_scenario(path, overrides=plain)


def test_cases_alone_are_a_sweep(path):
    plan = load_sweep(path, overrides=["sweep.cases={short: {rounds: 1}, long: {rounds: 9}}"])
    assert [plan.scenario(trial.values).rounds for trial in plan.trials] == [1, 9]


def test_over_goes_into_what_a_case_has_set(path):
    cases = "sweep.cases={momentum: {client.optimizer.modules: [[momentum, {beta: 0.5}]]}}"
    over = ["client.optimizer.modules.0={choice: [[momentum, {beta: 0.8}]]}"]
    plan = load_sweep(path, overrides=[cases], over=over)
    (module,) = plan.scenario(plan.trials[0].values).client.optimizer.modules
    assert module.get_config() == {"beta": 0.8, "nesterov": False}


def test_a_fault_of_a_case_has_its_line_and_names_the_trial(path):
    Path(path).write_text(SCENARIO + CASES.replace("scaffold-server", "scaffold-serve"))
    fault = "no module named 'scaffold-serve'. Did you mean 'scaffold-server'?"
    (line,) = faults(path)
    where = "(in trial label=scaffold,seed=0)"
    assert line == f"s.yaml:11: server.optimizer.modules[0]: {fault} {where}"


def test_a_searcher_chooses_among_cases_and_each_is_checked(path):
    Path(path).write_text(SCENARIO + CASES)
    plan = load_sweep(path, overrides=["sweep.searcher=optuna"])
    assert plan.space["label"].values == ("plain", "scaffold")
    wrong = ["sweep.searcher=optuna", "sweep.cases.scaffold={rounds: 0}"]
    assert faults(path, overrides=wrong) == [
        "--set: rounds: is 0; should be at least 1 (in trial label=scaffold,seed=0)"
    ]


@pytest.mark.parametrize(
    ("sweep", "fault"),
    [
        (
            "{cases: {a: {seed: 3}}, over: {seed: [0]}}",
            "over.seed: would override seed of sweep.cases",
        ),
        (
            "{cases: {a: {model.kind: mlp}}, over: {model: [{kind: logistic}]}}",
            "over.model: would override model.kind of sweep.cases; remove one of the two",
        ),
        (
            "{over: {model.kind: [mlp], model: [{kind: logistic}]}}",
            "over.model: would override model.kind of sweep.over; remove one of the two",
        ),
        ("{cases: {a: {label: b}}}", "cases.a.label: would override label of sweep.cases"),
        ("{cases: {a: {}}, over: {label: [b]}}", "over.label: would override label of sweep.cases"),
        ("{cases: {a: {plugins: [os]}}}", "cases.a.plugins: cannot be swept; set plugins for all"),
        ("{cases: {a: {search: [.]}}}", "cases.a.search: cannot be swept; set search for all"),
        ("{cases: {a: {output.dir: b}}}", "cases.a.output.dir: cannot be swept; set output for"),
        ("{cases: {a: {cluster.address: b:1}}}", "cases.a.cluster.address: cannot be swept"),
    ],
)
def test_cases_that_cannot_be_are_refused(path, sweep, fault):
    (line,) = faults(path, overrides=[f"sweep={sweep}"])
    assert line.startswith(f"--set: sweep.{fault}")


def test_a_trials_name_is_cut_by_bytes(minimal):
    """A letter of Chinese has three bytes; a file's name has 255 at most."""
    plan = load_sweep(minimal, over=["name=" + "\u8054" * 60 + ",b"])
    name = plan.trials[0].name
    assert len(name.encode()) <= 110
    assert name == "0-name=" + "\u8054" * 31


def test_baselines_are_tried_once_with_each_value_that_matters_to_them(path):
    """The server's learning rate does not, nor do cases; the clients' and seeds do."""
    Path(path).write_text(SCENARIO + CASES)
    over = ["server.optimizer.lrate=1,0.5", "client.optimizer.lrate=0.1,0.2"]
    plan = load_sweep(path, over=over, overrides=["sweep.baselines=[centralized, local]"])
    trials = [dict(trial.values) for trial in plan.trials]
    assert len(trials) == 2 * 2 * 2 * 2 + 2 * 4
    first = [values for values in trials if values["label"] == "local"]
    assert [sorted(values) for values in first] == [["client.optimizer.lrate", "label", "seed"]] * 4
    pairs = [(values["client.optimizer.lrate"], values["seed"]) for values in first]
    assert sorted(pairs) == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    made = plan.scenario(trials[-1])
    assert (made.label, made.algorithm.name, made.seed) == ("local", "local-only", 1)


def test_a_baseline_alone_is_a_sweep(path):
    """Also one that is named twice."""
    plan = load_sweep(path, overrides=["sweep.baselines=[centralized, centralized]"])
    assert [dict(trial.values) for trial in plan.trials] == [{}, {"label": "centralized"}]
    assert [trial.name for trial in plan.trials] == ["0", "1-label=centralized"]


def test_a_baseline_has_the_only_value_of_a_key(path):
    plan = load_sweep(path, over=["seed=5"], overrides=["sweep.baselines=[centralized, local]"])
    assert [plan.scenario(trial.values).seed for trial in plan.trials] == [5, 5, 5]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("asha: {}\n  over: {seed: 0..1}", "sweep.asha: cannot be judged beside sweep.baselines"),
        ("cases: {local: {}}", "sweep.cases.local: has the name of one of sweep.baselines"),
    ],
)
def test_baselines_are_refused_beside_what_does_not_go_with_them(path, sweep, message):
    Path(path).write_text(f"{SCENARIO}sweep:\n  baselines: [local]\n  {sweep}\n")
    (fault,) = faults(path)
    assert message in str(fault)
