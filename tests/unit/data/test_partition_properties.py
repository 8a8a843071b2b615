"""What every partition of simfl's own keeps to, whatever the examples."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simfl.data import IID, Dirichlet, Natural, Partition, Quantity, Shards, Similar
from simfl.errors import ConfigError


@st.composite
def cases(draw):
    """Draw targets, a client column and a partition that these allow."""
    examples = draw(st.integers(1, 200))
    clients = draw(st.integers(1, examples))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets = generator.integers(0, draw(st.integers(1, 12)), examples)
    columns = {"client": generator.integers(0, clients, examples)}
    most = examples // clients
    alpha = draw(st.sampled_from([1e-9, 0.05, 1.0, 1e6]))
    least = draw(st.integers(1, most))
    partition = draw(
        st.sampled_from(
            [
                IID(clients=clients),
                Dirichlet(clients=clients, alpha=alpha, min_examples=least),
                Quantity(clients=clients, alpha=alpha, min_examples=least),
                Shards(clients=clients, shards_per_client=least),
                Similar(clients=clients, similarity=draw(st.floats(0, 1))),
                Natural(),
            ]
        )
    )
    return targets, columns, partition


@settings(deadline=None, max_examples=200)
@given(cases(), st.integers(-(2**63), 2**63 - 1))
def test_each_row_belongs_to_exactly_one_client_and_no_client_is_short(case, seed):
    targets, columns, partition = case
    rows, offsets = partition.split(targets, columns, seed=seed)

    assert rows.dtype == offsets.dtype == np.int64
    assert sorted(rows.tolist()) == list(range(len(targets)))
    assert offsets[0] == 0
    assert offsets[-1] == len(targets)
    assert np.diff(offsets).min() >= getattr(partition, "min_examples", 1)
    if partition.num_clients is not None:
        assert len(offsets) == partition.num_clients + 1


@pytest.mark.parametrize(
    "partition",
    [
        IID(clients=7),
        Dirichlet(clients=7, alpha=0.5),
        Quantity(clients=7, alpha=0.5),
        Shards(clients=7),
        Similar(clients=7, similarity=0.5),
    ],
    ids=lambda partition: partition.name,
)
def test_a_seed_gives_one_split_and_another_seed_another(partition: Partition):
    targets = np.arange(500) % 10
    rows, offsets = partition.split(targets, {}, seed=3)
    again = partition.split(targets, {}, seed=3)
    other = partition.split(targets, {}, seed=4)

    assert np.array_equal(rows, again[0])
    assert np.array_equal(offsets, again[1])
    assert not np.array_equal(rows, other[0])


@pytest.mark.parametrize(
    "partition",
    [
        IID(clients=5000),
        Dirichlet(clients=5000, alpha=1.0),
        Quantity(clients=5000, alpha=1.0),
        Shards(clients=5000),
    ],
    ids=lambda partition: partition.name,
)
def test_more_clients_than_examples_are_refused_with_both_numbers(partition: Partition):
    with pytest.raises(ConfigError) as caught:
        partition.split(np.zeros(1797, np.int64), {}, seed=0)
    assert str(caught.value) == (
        "data.partition.clients is 5000, but there are 1797 training examples; lower it"
    )


@pytest.mark.parametrize("cls", [Dirichlet, Quantity])
def test_a_minimum_that_takes_more_examples_than_there_are_is_refused(cls: type[Partition]):
    partition = cls(clients=10, alpha=1.0, min_examples=11)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="min_examples is 11, which takes 110 examples for 10"):
        partition.split(np.zeros(109, np.int64), {}, seed=0)


def test_the_population_is_known_before_the_data_except_for_natural_clients():
    assert IID(clients=3).num_clients == 3
    assert Natural().num_clients is None


def test_iid_sizes_differ_by_one_at_most():
    _, offsets = IID(clients=8).split(np.zeros(1797, np.int64), {}, seed=0)
    # 1797 = 8 * 224 + 5
    assert sorted(np.diff(offsets)) == [224] * 3 + [225] * 5


def test_iid_clients_hold_about_the_same_share_of_each_class():
    """Of 100,000 examples a tenth are class 0: a client of 10,000 holds 1,000 of them.

    The count is hypergeometric with standard deviation sqrt(10000 * 0.1 * 0.9 * 0.9) = 28.5;
    within 5 of those is 1 in 1.7 million.
    """
    targets = np.arange(100_000) % 10
    rows, offsets = IID(clients=10).split(targets, {}, seed=0)
    for start, end in itertools.pairwise(offsets):
        assert abs((targets[rows[start:end]] == 0).sum() - 1000) < 143
