"""Words of other tools: each is answered by lines that a scenario can have, and is not our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from simfl.component import Section
from simfl.errors import ScenarioError
from simfl.scenario import Scenario, load_scenario
from simfl.scenario.components import component_kinds
from simfl.scenario.fields import keys_of
from simfl.synonyms import ANYWHERE, KEYS, NAMES

VALUES = {
    "algorithm": "algorithm={}",
    "aggregator": "server.aggregator={}",
    "module": "client.optimizer.modules=[{}]",
    "regularizer": "client.optimizer.regularizers=[{}]",
    "schedule": "client.optimizer.lrate={}",
    "transform": "client.transforms=[{}]",
    "augmentation": "data.augment=[{}]",
    "model": "model.kind={}",
    "loss": "model.loss={}",
    "metric": "evaluation.metrics=[{}]",
    "source": "data.source={}",
    "partition": "data.partition={}",
    "sampler": "client.sampler={}",
    "work": "client.epochs={}",
    "observer": "output.observers=[{}]",
    "OptimizerSection": "client.optimizer={}",
    "ServerOptimizerSection": "server.optimizer={}",
}
"""Where a scenario has a name of each kind."""

PLACES = {
    ANYWHERE: "{}=1",
    "source": "data.{}=1",
    "OptimizerSection": "client.optimizer.{}=1",
    "ServerSection": "server.{}=1",
    "ServerOptimizerSection": "server.optimizer.{}=1",
    "module": "client.optimizer.modules=[[adam, {{{}: 1}}]]",
    "partition": "data.partition={{kind: iid, clients: 9, {}: 1}}",
    "partition dirichlet": "data.partition={{kind: dirichlet, clients: 9, alpha: 1.0, {}: 1}}",
    "regularizer fedprox": "client.optimizer.regularizers=[[fedprox, {{{}: 1}}]]",
}
"""Where a scenario has a key of each place."""

NAMED = [(kind, name, lines) for kind, names in NAMES.items() for name, lines in names.items()]
KEYED = [(place, key, lines) for place, keys in KEYS.items() for key, lines in keys.items()]
OTHER_MEANING = {"alpha", "fraction", "name", "strategy", "transforms"}
"""Keys that sections have, too, but for something else."""


def told(override: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("quickstart", overrides=[override])
    (fault,) = caught.value.faults
    return fault


def sections(of: type[Section] = Scenario) -> Iterator[type[Section]]:
    yield of
    for hint, _ in keys_of(of).values():
        for part in _parts(hint):
            if isinstance(part, type) and issubclass(part, Section):
                yield from sections(part)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in get_args(hint):
        yield from _parts(argument)


@pytest.mark.parametrize("lines", sorted({lines for *_, lines in (*NAMED, *KEYED)}))
def test_the_lines_to_write_are_those_of_a_valid_scenario(
    lines: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("digits.npz", "table.csv", "table.parquet", "photos", "arrays"):
        Path(file).touch()
    overrides = [line.replace(": ", "=", 1) for line in lines.split(" and ")]
    load_scenario("quickstart", overrides=["client.epochs=null", *overrides])


@pytest.mark.parametrize(("kind", "name", "lines"), NAMED)
def test_a_name_is_answered_with_the_lines_to_write(kind: str, name: str, lines: str) -> None:
    assert told(VALUES[kind].format(name)).endswith(f". Write {lines}")


@pytest.mark.parametrize(("place", "key", "lines"), KEYED)
def test_a_key_is_answered_with_the_lines_to_write(place: str, key: str, lines: str) -> None:
    assert told(PLACES[place].format(key)).endswith(f"there is no such key. Write {lines}")


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("model=resnet18", "model: {kind: resnet18}"),
        ("model=lenet", "model: {kind: cnn-28}"),
        ("data=mnist", "data: {source: mnist}"),
        ("data=CIFAR-10", "data.source: cifar10"),
    ],
)
def test_a_name_in_place_of_a_section_is_answered_with_the_lines_to_write(
    override: str, lines: str
) -> None:
    assert told(override).endswith(f"should be a mapping of keys. Write {lines}")


def test_spelling_does_not_matter() -> None:
    assert told("algorithm=Fed_Adam").endswith("Write server.optimizer.modules: [adam]")
    assert told("client.learning-rate=1").endswith("Write client.optimizer.lrate: 0.1")
    assert told("algorithm=SCAFFOLD").endswith("Did you mean 'scaffold'?")


def test_a_key_of_the_section_is_meant_before_one_of_others() -> None:
    assert told("evaluation.batch-size=1").endswith("Did you mean 'batch_size'?")


def test_what_has_become_a_name_of_ours_is_no_synonym() -> None:
    """If this fails for a component that you add: delete the entry of its name."""
    registered = {what: set(root.registry) for what, root in component_kinds().items()}
    stale = [(kind, name) for kind, name, _ in NAMED if name in registered.get(kind, ())]
    assert stale == []


def test_what_has_become_a_key_of_ours_is_no_synonym() -> None:
    """If this fails for a key that you add: delete its entry, or let it lead to the key."""
    keys = {key for section in sections() for key in keys_of(section)} | {"kind"}
    stale = [
        (place, key)
        for place, key, lines in KEYED
        if key in keys - OTHER_MEANING and key not in lines.partition(":")[0].split(".")
    ]
    assert stale == []
