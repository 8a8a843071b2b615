"""Data sets by name, with a hub that answers with tiny ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simfl.data import CIFAR10, CIFAR100, FEMNIST, MNIST, Scaling, Shakespeare, build_dataset
from simfl.errors import DataError

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")


class Hub:
    """Answers with two examples of a data set, and notes what it was asked for."""

    def __init__(self, columns: dict[str, list[Any]], features: Any = None) -> None:
        self.data = datasets.Dataset.from_dict(columns, features=features)
        self.asked: list[tuple[str, str, str | None]] = []

    def __call__(self, path: str, config: None, *, split: str, revision: str | None) -> Any:
        self.asked.append((path, split, revision))
        return self.data


def pictures(mode: str, size: int, *, image: str, **classes: int) -> Hub:
    columns = {image: [Image.new(mode, (size, size)), Image.new(mode, (size, size))]}
    kinds = {name: datasets.ClassLabel(num) for name, num in classes.items()}
    types = {image: datasets.Image(), **kinds, "writer_id": datasets.Value("string")}
    ids = {name: [0, num - 1] for name, num in classes.items()}
    values = {**columns, **ids, "writer_id": ["f1", "f0"]}
    return Hub(values, datasets.Features(types))


@pytest.mark.parametrize(
    ("source", "hub", "path", "largest", "splits"),
    [
        (MNIST(), pictures("L", 28, image="image", label=10), "ylecun/mnist", 9, 2),
        (CIFAR10(), pictures("RGB", 32, image="img", label=10), "uoft-cs/cifar10", 9, 2),
        (CIFAR100(revision="0a"), pictures("RGB", 32, image="img", fine_label=100,
         coarse_label=20), "uoft-cs/cifar100", 99, 2),
        (CIFAR100(target="coarse_label"), pictures("RGB", 32, image="img", fine_label=100,
         coarse_label=20), "uoft-cs/cifar100", 19, 2),
        (FEMNIST(), pictures("L", 28, image="image", character=62), "flwrlabs/femnist", 61, 1),
    ],
)  # fmt: skip
def test_images_are_bytes_of_the_known_columns(
    monkeypatch: pytest.MonkeyPatch, source: Any, hub: Hub, path: str, largest: int, splits: int
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", hub)
    data = source.load(seed=0)
    assert hub.asked == [(path, split, source.revision) for split in ("train", "test")[:splits]]
    assert data.train.targets.tolist() == [0, largest]
    assert data.train.inputs.dtype == np.uint8
    assert data.train.scaling == Scaling(divide_by=255)
    if isinstance(source, FEMNIST):
        assert data.columns["client"].tolist() == ["f1", "f0"]


def test_the_next_character_of_a_speaker_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"x": ["to b", "o be"], "y": ["e", "!"], "character_id": ["B", "A"]}
    monkeypatch.setattr(datasets, "load_dataset", Hub(columns))
    dataset = build_dataset(Shakespeare(), None, seed=0)
    alphabet = sorted("to be!")
    assert dataset.train.inputs.tolist() == [[alphabet.index(c) for c in x] for x in columns["x"]]
    assert dataset.train.targets.tolist() == [alphabet.index(y) for y in columns["y"]]
    assert dataset.train_rows(0).tolist() == [1]


@pytest.mark.parametrize("source", [MNIST(), Shakespeare()])
def test_without_a_network_the_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, source: Any
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'it' on the Hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        source.load(seed=0)
    assert str(caught.value) == (
        f"{source.path}, split 'train', cannot be read: Couldn't reach 'it' on the Hub"
    )
    assert "without revision" in str(source.refuse_untrusted())
