"""Which runs are one curve, what it is called, and where scenarios differ."""

from __future__ import annotations

from report_cases import NOW, SCENARIO, write_run

from simfl.report.differences import differences, flatten
from simfl.report.groups import group_runs
from simfl.report.reading import read_run


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
    assert members(found) == [("slow", ["slow-0", "slow-1"]), ("fast", ["fast-0", "fast-1"])]


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
