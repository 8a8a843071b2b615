"""Sequences of several lengths, against Python's lists of tokens.

Shapes: N sequences, L positions of a batch.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from simfl.client.batches import read_batch
from simfl.data import Examples, FederatedDataset, Source, SourceData, build_dataset
from simfl.data.partitions import IID
from simfl.data.ragged import IGNORED, Ragged, Vocabulary
from simfl.errors import ConfigError, DataError
from simfl.models import data_shape

TEXTS = [[5, 6, 7], [8], [1, 2, 3, 4, 5, 6, 7, 8, 9], [4, 4], [2] * 12]


def ragged(texts: list[list[int]], *, width: int = 12, hidden: list[int] | None = None) -> Ragged:
    lengths = np.array([len(text) for text in texts])
    return Ragged(
        values=np.concatenate(texts).astype(np.uint16),
        begins=np.cumsum(lengths) - lengths,
        lengths=lengths,
        width=width,
        vocabulary=Vocabulary(10, "digits"),
        pad=IGNORED if hidden else 0,
        hidden=np.array(hidden) if hidden else None,
    )


def padded(texts: list[list[int]], length: int, pad: int = 0) -> list[list[int]]:
    return [text + [pad] * (length - len(text)) for text in texts]


def test_rows_are_padded_to_a_multiple_of_eight() -> None:
    tokens = ragged(TEXTS)[np.array([3, 0])]
    assert tokens.dtype == np.int64
    assert tokens.tolist() == padded([TEXTS[3], TEXTS[0]], 8)


def test_rows_are_no_longer_than_the_width() -> None:
    assert ragged(TEXTS)[np.array([2, 1])].tolist() == padded([TEXTS[2], TEXTS[1]], 12)


def test_rows_may_have_any_axes() -> None:
    rows = np.array([[0, 1], [3, 2]])
    tokens = ragged(TEXTS)[rows]
    assert tokens.shape == (2, 2, 12)
    assert tokens[1, 0].tolist() == padded([TEXTS[3]], 12)[0]
    assert ragged(TEXTS).take(rows).tolist() == tokens.tolist()


def test_no_rows_and_a_single_one() -> None:
    assert ragged(TEXTS)[np.array([], np.int64)].shape == (0, 8)
    assert ragged(TEXTS)[0].tolist() == padded([TEXTS[0]], 8)[0]
    assert ragged(TEXTS)[1:3].tolist() == padded(TEXTS[1:3], 12)


def test_hidden_values_are_read_as_padding() -> None:
    tokens = ragged(TEXTS, hidden=[1, 0, 4, 2, 0])
    assert tokens[np.array([0, 3])].tolist() == [[-100, 6, 7] + [-100] * 5, [-100] * 8]
    assert tokens.counts().tolist() == [2, 1, 5, 0, 12]


def test_a_mask_is_one_up_to_the_end() -> None:
    mask = Ragged.mask(np.array([3, 1]), width=4)
    assert mask[np.array([0, 1])].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert mask.nbytes == 4 + 2 * 16


def test_selected_sequences_share_the_values() -> None:
    tokens = ragged(TEXTS)
    some = tokens.select(np.array([4, 1]))
    assert some.values is tokens.values
    assert len(some) == 2
    assert some.shape == (2, 12)
    assert some[np.array([1])].tolist() == padded([TEXTS[1]], 8)


def test_pickled_out_of_band_the_values_are_one_buffer() -> None:
    tokens = ragged(TEXTS)
    targets = Ragged(tokens.values, tokens.begins, tokens.lengths, 12, tokens.vocabulary)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps((tokens, targets), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 3
    one, other = pickle.loads(data, buffers=buffers)
    assert one.values is other.values
    assert one[np.arange(5)].tolist() == tokens[np.arange(5)].tolist()


class Texts(Source):
    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    def load(self, *, seed: int) -> SourceData:
        return SourceData(Examples({"tokens": ragged(self.texts)}, ragged(self.texts)))


def federated(texts: list[list[int]] = TEXTS * 8, **options: float) -> FederatedDataset:
    return build_dataset(Texts(texts), IID(4), seed=0, **options)  # type: ignore[arg-type]


def texts_of(examples: Examples, rows: np.ndarray) -> list[list[int]]:
    assert isinstance(examples.targets, Ragged)
    lengths = examples.targets.lengths
    return [read[: lengths[row]].tolist() for row in rows for read in [examples.targets[row]]]


def test_splits_share_out_all_sequences() -> None:
    data = federated(test_fraction=0.2, holdout_fraction=0.25, public=0.1)
    assert data.test is not None
    assert data.public is not None
    found = [
        *texts_of(data.train, data.rows),
        *texts_of(data.test, np.arange(len(data.test))),
        *texts_of(data.public, np.arange(len(data.public))),
    ]
    assert (len(data.test), len(data.public), data.num_clients) == (8, 3, 4)
    assert sorted(found) == sorted(TEXTS * 8)


def test_a_batch_has_inputs_and_targets_of_one_length() -> None:
    batch = read_batch(federated().train, np.array([0, 1]))
    assert isinstance(batch.inputs, dict)
    assert batch.inputs["tokens"].shape == batch.targets.shape == (2, 8)
    assert batch.targets.dtype == torch.int64


def test_bytes_that_are_shared_count_once() -> None:
    data = federated(test_fraction=0.2)
    values = data.train.targets.values  # type: ignore[union-attr]
    indexes = 16 * len(data.train) + 16 * len(data.test or ())
    rows = data.rows.nbytes + data.offsets.nbytes + 32  # where holdouts begin is a view
    assert data.num_bytes == 2 * (values.nbytes + indexes) + rows


def test_the_digest_is_that_of_the_tokens_and_not_of_their_place() -> None:
    one, other = ragged(TEXTS), ragged([[9], *TEXTS])
    moved = Ragged(other.values, other.begins[1:], other.lengths[1:], 12, one.vocabulary, other.pad)
    digests = [FederatedDataset.of_one(Examples(x, x)).digest() for x in (one, moved)]
    assert digests[0] == digests[1]
    changed = ragged([*TEXTS[:-1], [2] * 11 + [3]])
    assert FederatedDataset.of_one(Examples(changed, changed)).digest() != digests[0]


def test_a_model_is_built_for_the_vocabulary_and_the_width() -> None:
    tokens = ragged([[1], [2, 3]])
    shape = data_shape(tokens, tokens)
    assert (shape.inputs, shape.target_shape) == ((12,), (12,))
    assert (shape.vocabulary, shape.num_classes) == (10, 10)


def test_targets_of_arrays_may_leave_out_positions() -> None:
    assert data_shape(np.zeros((2, 3)), np.array([[1, -100, 4]] * 2)).num_classes == 5
    with pytest.raises(DataError, match="integer -100"):
        data_shape(np.zeros((2, 3)), np.array([1, -100]))


def test_a_public_source_of_another_tokenizer_is_refused() -> None:
    class Others(Texts):
        def load(self, *, seed: int) -> SourceData:
            x = ragged(self.texts)
            other = Ragged(x.values, x.begins, x.lengths, 12, Vocabulary(10, "letters"))
            return SourceData(Examples({"tokens": other}, other))

    with pytest.raises(DataError, match="10 tokens letters per example, but the training"):
        build_dataset(Texts(TEXTS), IID(2), seed=0, public=Others(TEXTS))


def test_classes_cannot_be_split_where_there_are_none() -> None:
    from simfl.data.partitions import Dirichlet

    with pytest.raises(DataError, match=r"int64 of shape \(5, 12\); use 'iid'"):
        build_dataset(Texts(TEXTS), Dirichlet(2, alpha=1.0), seed=0)


def test_tokens_are_not_scaled() -> None:
    from simfl.data import Scaling

    with pytest.raises(ConfigError, match="tokens have none"):
        build_dataset(Texts(TEXTS), IID(2), seed=0, scaling=Scaling(divide_by=255))
