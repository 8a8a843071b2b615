"""Which runs are one curve, what it is called, and where scenarios differ."""

from __future__ import annotations

from report_cases import NOW, SCENARIO, write_run

from simfl.report.comparison import differences, flatten
from simfl.report.reading import read_run
from simfl.report.study import count_of_groups, group_runs


def runs(tmp_path, scenarios):
    return [
        read_run(write_run(tmp_path / name, scenario=scenario), now=NOW)
        for name, scenario in scenarios.items()
    ]


def with_lrate(lrate, **more):
    client = SCENARIO["client"] | {"optimizer": {"lrate": lrate, "modules": []}}
    return SCENARIO | {"client": client} | more


def members(groups):
    return [(group.label, [run.folder.name for run in group.runs]) for group in groups]


def test_runs_that_differ_in_the_seed_only_are_one_group_by_seed(tmp_path):
    found = group_runs(
        runs(
            tmp_path,
            {
                "slow-1": with_lrate(0.1, seed=1),
                "fast-0": with_lrate(0.5),
                "slow-0": with_lrate(0.1),
                "fast-1": with_lrate(0.5, seed=1),
            },
        )
    )
    assert members(found) == [
        ("lrate=0.1", ["slow-0", "slow-1"]),
        ("lrate=0.5", ["fast-0", "fast-1"]),
    ]


def test_names_and_places_have_no_part_in_a_group(tmp_path):
    found = group_runs(
        runs(
            tmp_path,
            {
                "a": SCENARIO | {"name": "x", "output": {"dir": "1"}, "search": ["/1"]},
                "b": SCENARIO | {"name": "y", "output": {"dir": "2"}, "seed": 1},
            },
        )
    )
    assert [len(group.runs) for group in found] == [2]


def test_a_repeated_seed_counts_once(tmp_path):
    (group,) = group_runs(runs(tmp_path, {"a": SCENARIO, "b": SCENARIO}))
    assert [run.folder.name for run in group.runs] == ["a"]
    assert [run.folder.name for run in group.repeats] == ["b"]


def test_runs_without_a_scenario_are_each_their_own_group(tmp_path):
    assert len(group_runs(runs(tmp_path, {"a": None, "b": None}))) == 2


def test_groups_are_called_by_their_scenarios_names_if_these_differ(tmp_path):
    found = group_runs(
        runs(tmp_path, {"a": with_lrate(0.1, name="slow"), "b": with_lrate(0.5, name="fast")})
    )
    assert [group.label for group in found] == ["slow", "fast"]


def test_groups_in_folders_that_were_given_no_name_are_called_by_what_differs(tmp_path):
    found = group_runs(
        runs(
            tmp_path,
            {"small-20261124-101112": with_lrate(0.1), "small-20261124-101112-2": with_lrate(0.5)},
        )
    )
    assert [group.label for group in found] == ["lrate=0.1", "lrate=0.5"]


def test_differences_name_the_keys_and_all_values():
    one = {"rounds": 3, "client": {"optimizer": {"lrate": 0.1, "modules": []}}}
    other = {"rounds": 3, "client": {"optimizer": {"lrate": 0.5, "modules": [{"kind": "adam"}]}}}
    found = {difference.key: difference.values for difference in differences([one, other])}
    assert found == {
        "client.optimizer.lrate": ("0.1", "0.5"),
        "client.optimizer.modules": ("[]", None),
        "client.optimizer.modules[0].kind": (None, "adam"),
    }


def test_the_same_scenarios_have_no_differences():
    assert differences([SCENARIO, SCENARIO, SCENARIO]) == []


def test_an_empty_scenario_differs_in_nothing_but_its_absence():
    assert flatten({}) == {"": "{}"}


def labels(tmp_path, *scenarios):
    return [
        group.label
        for group in group_runs(runs(tmp_path, {f"r{n}": s for n, s in enumerate(scenarios)}))
    ]


def test_a_label_names_the_group_and_has_no_part_in_it(tmp_path):
    found = labels(
        tmp_path,
        with_lrate(0.1, label="slow"),
        with_lrate(0.1, label="slow", seed=1),
        with_lrate(0.5),
        with_lrate(0.5, seed=1, label="of one only"),
    )
    assert found == ["slow", "of one only"]


def test_the_fewest_keys_that_tell_groups_apart_are_in_their_names(tmp_path):
    """The number of rounds follows the rate, so one of the two is enough; the model is another."""
    mlp = {"kind": "mlp", "hidden": [4]}
    found = labels(
        tmp_path,
        with_lrate(0.1, rounds=3),
        with_lrate(0.1, rounds=3, seed=1),
        with_lrate(0.5, rounds=5),
        with_lrate(0.5, rounds=5, model=mlp),
    )
    assert [sorted(label.split(", ")) for label in found] == [
        sorted(["rounds=3", "hidden=[8]"]),
        sorted(["rounds=5", "hidden=[8]"]),
        sorted(["rounds=5", "hidden=[4]"]),
    ]


def test_keys_that_end_alike_are_written_out(tmp_path):
    scenarios = [
        with_lrate(client, server={"optimizer": {"lrate": server}})
        for client in (0.1, 0.5)
        for server in (1.0, 2.0)
    ]
    assert labels(tmp_path, *scenarios)[0] == (
        "client.optimizer.lrate=0.1, server.optimizer.lrate=1.0"
    )


def test_a_group_without_the_key_is_told_by_the_one_in_its_place(tmp_path):
    optimizer = {"lrate": 0.1, "modules": [{"kind": "momentum", "beta": 0.9}]}
    other = SCENARIO | {"client": SCENARIO["client"] | {"optimizer": optimizer}}
    assert labels(tmp_path, SCENARIO, other) == ["modules=[]", "modules[0]=momentum"]


def test_groups_of_one_label_are_told_apart_by_what_they_differ_in(tmp_path):
    """As the trials of a sweep are, where each case is tried with several learning rates."""
    scenarios = [
        with_lrate(0.1, label="plain"),
        with_lrate(0.5, label="plain"),
        with_lrate(0.1, label="slow", rounds=90),
    ]
    assert labels(tmp_path, *scenarios) == ["plain (lrate=0.1)", "plain (lrate=0.5)", "slow"]


def test_groups_of_one_name_are_numbered_and_no_name_is_longer_than_a_legend_takes(tmp_path):
    long = "x" * 100
    found = labels(tmp_path, with_lrate(0.1, label=long), with_lrate(0.5, label=long))
    assert found == ["x" * 59 + "…", "x" * 59 + "… (2)"]


def test_runs_without_a_scenario_are_called_as_their_folders(tmp_path):
    found = group_runs(runs(tmp_path, {"alpha": None, "alphabet": None}))
    assert [group.label for group in found] == ["alpha", "alphabet"]


def test_one_group_is_called_by_whole_words_of_its_folders_without_the_seed(tmp_path):
    scenarios = {f"mine-beta{n}": with_lrate(0.1, name=None, seed=n) for n in (10, 11)}
    assert [group.label for group in group_runs(runs(tmp_path / "a", scenarios))] == ["mine-beta"]
    scenarios = {
        f"mine-{word}": with_lrate(0.1, name=None, seed=len(word)) for word in ("beta", "be")
    }
    assert [group.label for group in group_runs(runs(tmp_path / "b", scenarios))] == ["mine"]


def test_it_is_said_how_many_groups_of_how_many_seeds_there_are(tmp_path):
    def groups(*rates_and_seeds):
        scenarios = [with_lrate(rate, seed=seed) for rate, seed in rates_and_seeds]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return group_runs(runs(folder, {f"r{n}": s for n, s in enumerate(scenarios)}))

    assert count_of_groups(groups((0.1, 0), (0.5, 0))) == ""
    assert count_of_groups(groups((0.1, 0), (0.1, 1))) == "1 group of 2 seeds"
    assert count_of_groups(groups((0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1))) == "2 groups of 2 seeds"
    assert count_of_groups(groups((0.1, 0), (0.1, 1), (0.5, 0))) == "2 groups of 1 to 2 seeds"
