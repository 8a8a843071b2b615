"""Numbers and the picture of a data set."""

import numpy as np
import pytest

from simfl.data import Examples, FederatedDataset, label_counts, summarize
from simfl.data import describe as describe_module
from simfl.errors import DataError


def dataset(targets, sizes, *, holdout=0, test=None, names=()):
    """Build a data set of consecutive rows; each client keeps `holdout` of them."""
    offsets = np.cumsum([0, *sizes])
    targets = np.asarray(targets)
    return FederatedDataset(
        train=Examples(np.zeros((len(targets), 1), np.float32), targets),
        rows=np.arange(offsets[-1]),
        offsets=offsets,
        holdout_offsets=offsets[1:] - holdout,
        test=test,
        class_names=names,
    )


def test_labels_are_counted_by_client_and_class():
    data = dataset([0, 2, 2, 0, 5, 5], [3, 1, 2])
    # Classes 0, 2 and 5.
    assert label_counts(data).tolist() == [[1, 2, 0], [1, 0, 0], [0, 0, 2]]


def test_labels_of_some_clients_are_in_the_requested_order():
    data = dataset([0, 2, 2, 0, 5, 5], [3, 1, 2])
    assert label_counts(data, [2, 0]).tolist() == [[0, 0, 2], [1, 2, 0]]


def test_a_table_that_would_not_fit_in_memory_is_refused(monkeypatch):
    monkeypatch.setattr(describe_module, "_MAX_CELLS", 5)
    with pytest.raises(DataError, match="3 clients and 2 classes are more than 5 numbers; ask for"):
        label_counts(dataset([0, 1, 0], [1, 1, 1]))


def test_targets_without_labels_cannot_be_counted():
    with pytest.raises(DataError, match="not class ids; there are no labels to count"):
        label_counts(dataset([0.5, 1.5], [1, 1]))


def test_a_summary_has_the_counts_of_a_data_set():
    """Clients of 2, 3 and 7 examples, one of each kept for evaluation: 12 - 3 = 9 to train on."""
    test = Examples(np.zeros((4, 1)), np.zeros(4, int))
    summary = summarize(dataset(np.zeros(12, int), [2, 3, 7], holdout=1, test=test))
    assert (summary.num_clients, summary.num_train, summary.num_holdout) == (3, 9, 3)
    assert summary.num_test == 4
    assert (summary.min_examples, summary.median_examples, summary.max_examples) == (2, 3, 7)
    assert summary.mean_examples == 4


def test_a_summary_has_the_entropies_of_the_labels_in_bits():
    """Client 0 holds classes 0, 0, 1, 1: 1 bit. Client 1 holds 3, 3, 3, 3: 0 bits.

    Together shares of 1/4, 1/4 and 1/2: 0.5 + 0.5 + 0.5 = 1.5 bits.
    """
    labels = summarize(dataset([0, 0, 1, 1, 3, 3, 3, 3], [4, 4])).labels
    assert labels.num_classes == 3
    assert labels.mean_per_client == 1.5
    assert labels.mean_entropy == 0.5
    assert labels.overall_entropy == 1.5


def test_targets_that_are_no_class_ids_have_no_label_numbers():
    assert summarize(dataset([0.5, 1.5], [1, 1])).labels is None
    assert summarize(dataset(np.zeros((2, 3), int), [1, 1])).labels is None


def test_a_million_clients_with_a_class_each_are_summed_up():
    """A full table would be 10^12 numbers."""
    n = 1_000_000
    labels = summarize(dataset(np.arange(n), np.ones(n, int))).labels
    assert labels.num_classes == n
    assert labels.mean_per_client == 1
    assert labels.mean_entropy == 0
    assert labels.overall_entropy == pytest.approx(np.log2(n))
