"""Examples from a function of the user's."""

import sys
import types

import numpy as np
import pytest

from simfl.data import Examples, PythonFunction, SourceData
from simfl.errors import ConfigError, DataError, ImportPathError

INPUTS = np.arange(6.0).reshape(3, 2)
TARGETS = np.array([0, 1, 0])


@pytest.fixture
def load(monkeypatch):
    """Make a function importable as mine:load, then load it."""

    def define_and_load(function, *, seed=0, **arguments):
        module = types.ModuleType("mine")
        module.load = function
        monkeypatch.setitem(sys.modules, "mine", module)
        return PythonFunction(path="mine:load", arguments=arguments).load(seed=seed)

    return define_and_load


@pytest.mark.parametrize(
    "value",
    [
        (INPUTS, TARGETS),
        Examples(INPUTS, TARGETS),
        SourceData(Examples(INPUTS, TARGETS)),
        {"inputs": INPUTS, "targets": TARGETS},
        (INPUTS.tolist(), TARGETS.tolist()),
    ],
    ids=["pair", "Examples", "SourceData", "dict", "lists"],
)
def test_each_way_of_returning_examples_gives_float32_inputs_and_int64_targets(load, value):
    train = load(lambda: value).train
    assert train.inputs.dtype == np.float32
    assert train.inputs.tolist() == INPUTS.tolist()
    assert train.targets.dtype == np.int64
    assert train.targets.tolist() == [0, 1, 0]


def test_arguments_are_passed_on(load):
    train = load(lambda n, scale=1.0: (np.full((n, 1), scale), np.zeros(n, int)), n=2, scale=3.0)
    assert train.train.inputs.tolist() == [[3.0], [3.0]]


def test_a_function_with_a_seed_gets_the_runs_unless_the_arguments_set_it(load):
    def examples(seed):
        return np.full((1, 1), seed), [0]

    assert load(examples, seed=7).train.inputs.tolist() == [[7]]
    module_seed = PythonFunction(path="mine:load", arguments={"seed": 5})
    assert module_seed.load(seed=7).train.inputs.tolist() == [[5]]


def test_source_data_keeps_columns_test_split_and_names(load):
    data = SourceData(
        Examples(INPUTS, np.array(["b", "a", "b"])),
        test=Examples(INPUTS[:1], np.array(["b"])),
        columns={"client": [1, 2, 3]},
    )
    loaded = load(lambda: data)
    assert loaded.class_names == ("a", "b")
    assert loaded.train.targets.tolist() == [1, 0, 1]
    assert loaded.test.targets.tolist() == [1]
    assert loaded.columns["client"].tolist() == [1, 2, 3]


def test_positional_and_named_inputs_are_kept_apart(load):
    assert isinstance(load(lambda: ((INPUTS, INPUTS), TARGETS)).train.inputs, tuple)
    named = load(lambda: ({"x": INPUTS, "z": INPUTS}, TARGETS)).train.inputs
    assert sorted(named) == ["x", "z"]


def test_exceptions_of_the_function_propagate(load):
    def fails():
        raise ZeroDivisionError("by hand")

    with pytest.raises(ZeroDivisionError, match="by hand"):
        load(fails)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"mine:load\(\) returned a NoneType; it must return SourceData, Examples"),
        ((1, 2, 3), r"mine:load\(\) returned a tuple of 3"),
        ({"x": INPUTS}, r"mine:load\(\) has no array 'inputs'; it holds x"),
        ((["a"], [0]), r"mine:load\(\): inputs holds text"),
    ],
)
def test_other_returns_are_refused(load, value, message):
    with pytest.raises(DataError, match=message):
        load(lambda: value)


def test_arguments_that_do_not_fit_are_reported_with_the_signature(load):
    with pytest.raises(ConfigError, match=r"mine:load\(n\) cannot be called: missing .* 'n'"):
        load(lambda n: n)


def test_something_that_is_no_function_is_refused(load):
    with pytest.raises(ConfigError, match="which is not a function but 3"):
        load(3)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ImportPathError, match="cannot import module 'no_such_module'"):
        PythonFunction(path="no_such_module:load").load(seed=0)
