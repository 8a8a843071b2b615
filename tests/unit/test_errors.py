"""What an exception says, what catches it, and that it survives the way between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from simfl import errors
from simfl.errors import (
    ClientError,
    ConfigError,
    InputError,
    MissingExtraError,
    ScenarioError,
    SimflError,
    UnknownNameError,
    VectorError,
    did_you_mean,
)

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SimflError)]
SPECIAL = [
    UnknownNameError("module", "momentun", ["momentum"]),
    ScenarioError(["rounds is 0", "seed is -1"]),
    MissingExtraError("the source", package="datasets", extra="hf"),
    ClientError("client 3 failed", client=3, round=2, client_traceback="Traceback: ..."),
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_exception_is_public_and_in_the_drawn_tree(cls) -> None:
    assert cls.__name__ in errors.__all__
    assert cls.__name__ in errors.__doc__
    assert cls.__doc__


@pytest.mark.parametrize("error", SPECIAL, ids=lambda error: type(error).__name__)
def test_exceptions_with_arguments_of_their_own_survive_pickling(error: SimflError) -> None:
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert vars(restored) == vars(error)


def test_a_key_error_of_ours_prints_its_text_without_quotes() -> None:
    error = UnknownNameError("module", "momentun", ["momentum", "adam"])
    assert isinstance(error, KeyError)
    assert str(error) == "no module named 'momentun'. Did you mean 'momentum'?"


def test_faulty_values_are_caught_as_value_errors_too() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(VectorError, ValueError)


def test_faults_of_the_input_are_told_from_faults_of_the_run() -> None:
    assert issubclass(ScenarioError, InputError)
    assert not issubclass(ClientError, InputError)


def test_a_scenario_error_prints_one_line_per_fault() -> None:
    assert str(ScenarioError(["first", "second"])) == "first\nsecond"


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("the source", package="datasets", extra="hf")
    assert str(error) == (
        "the source needs the package 'datasets'; install it with: pip install 'simfl[hf]'"
    )


def test_the_nearest_name_is_suggested_and_otherwise_all_are_listed() -> None:
    assert did_you_mean("adma", ["yogi", "adam"]) == "Did you mean 'adam'?"
    assert did_you_mean("xyz", ["yogi", "adam"]) == "Known: adam, yogi."
    assert did_you_mean("xyz", []) == ""


def test_an_exception_without_message_prints_nothing() -> None:
    assert str(SimflError()) == ""
