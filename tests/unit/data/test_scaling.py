"""The scale of inputs, from the source and the scenario, and combinations that are invalid."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from simfl.data import IID, Examples, Scaling, Source, SourceData, build_dataset
from simfl.errors import ConfigError, DataError


@dataclass(frozen=True)
class InMemory(Source):
    """A source of arrays given to it; it has no name, so it isn't registered."""

    data: Any

    def load(self, *, seed):
        return self.data


def examples(own=None, shape=(3, 2), kind=np.uint8):
    return Examples(np.ones((4, *shape), kind), np.arange(4) % 2, own)


def build(data, scaling, **options):
    return build_dataset(InMemory(data), IID(clients=2), seed=0, scaling=scaling, **options)


def test_both_splits_are_scaled_and_stay_bytes():
    dataset = build(SourceData(examples(), examples()), Scaling(divide_by=255))
    for split in (dataset.train, dataset.test):
        assert split.inputs.dtype == np.uint8
        assert split.scaling == Scaling(divide_by=255)


def test_a_test_split_taken_from_the_examples_is_scaled_like_them():
    dataset = build(SourceData(examples()), Scaling(divide_by=255), test_fraction=0.5)
    assert dataset.test.scaling == dataset.train.scaling == Scaling(divide_by=255)


def test_a_scenario_normalises_what_the_source_divides():
    data = SourceData(examples(Scaling(divide_by=255)))
    dataset = build(data, Scaling(mean=(0.5,), std=(0.25,)))
    assert dataset.train.scaling == Scaling(divide_by=255, mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize(
    ("data", "scaling", "message"),
    [
        (
            examples(Scaling(divide_by=255)),
            Scaling(divide_by=10),
            "divide_by is 10, but the source's inputs are divided by 255 already; leave it out",
        ),
        (
            examples(Scaling(mean=(1.0,), std=(1.0,))),
            Scaling(mean=(1.0,), std=(1.0,)),
            "the source normalises already; leave it out",
        ),
        (
            examples(),
            Scaling(mean=(0.5, 0.5), std=(1.0,)),
            r"normalize.mean has 2 numbers, but inputs of shape \[3, 2\] have 3 channels; give one",
        ),
        (
            examples(shape=()),
            Scaling(mean=(0.5,), std=(1.0, 2.0)),
            r"normalize.std has 2 numbers, but inputs of shape \[\] have 1 channels",
        ),
        (
            Examples((np.ones((4, 3)), np.ones((4, 3))), np.arange(4) % 2),
            Scaling(mean=(0.5,), std=(1.0,)),
            "goes with one input, and there are 2; normalise them in the source",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data, scaling, message):
    with pytest.raises(ConfigError, match=message):
        build(SourceData(data), scaling)


def test_a_source_must_scale_both_splits_alike():
    with pytest.raises(DataError, match="the test inputs are scaled by None, but the training"):
        build(SourceData(examples(Scaling(divide_by=255)), examples()), None)
