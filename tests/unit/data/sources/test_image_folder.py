"""Folders of images, against the pixels that they were made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simfl.data import ImageFolder, Scaling, build_dataset
from simfl.data.cache import cache_folder
from simfl.errors import DataError, MissingExtraError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def save(path: Path, pixels: Any, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    save(root / "dog" / "2.png", [[1, 2, 3], [4, 5, 6]])
    save(root / "ant" / "1.png", [[7, 8, 9], [10, 11, 12]])
    save(root / "dog" / "1.PNG", [[13, 14, 15], [16, 17, 18]])
    (root / "dog" / "notes.txt").write_text("no image")
    return root


def test_images_stay_bytes_and_folders_are_classes(folder: Path) -> None:
    data = ImageFolder(str(folder)).load(seed=0)
    assert data.class_names == ("ant", "dog")
    assert data.train.targets.tolist() == [0, 1, 1]
    assert data.train.inputs.shape == (3, 1, 2, 3)
    assert data.train.inputs[:, 0, 0].tolist() == [[7, 8, 9], [13, 14, 15], [1, 2, 3]]
    assert data.train.inputs.dtype == np.uint8
    assert data.train.scaling == Scaling(divide_by=255)


def test_colour_in_one_makes_three_channels(folder: Path) -> None:
    save(folder / "ant" / "2.png", [[[1, 2, 3]] * 3] * 2, "RGB")
    inputs = ImageFolder(str(folder)).load(seed=0).train.inputs
    assert inputs.shape == (4, 3, 2, 3)
    assert inputs[0, :, 0].tolist() == [[7, 8, 9]] * 3
    assert inputs[1, :, 0, 0].tolist() == [1, 2, 3]


def test_images_are_resized_as_pillow_does(folder: Path) -> None:
    save(folder / "ant" / "2.png", np.arange(24).reshape(4, 6))
    with pytest.raises(
        DataError, match=r"2\.png is 6 by 4 pixels, .*1\.png 3 by 2 pixels; set data"
    ):
        ImageFolder(str(folder)).load(seed=0)
    inputs = ImageFolder(str(folder), size=(2, 3)).load(seed=0).train.inputs
    with Image.open(folder / "ant" / "2.png") as image:
        assert inputs[1, 0].tolist() == np.asarray(image.resize((3, 2))).tolist()
    assert inputs[0, 0, 0].tolist() == [7, 8, 9]


def test_clients_are_the_first_folders_in_both_splits(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for client in ("bob", "ann"):
            value = len(client + split) + ord(client[0])
            save(tmp_path / split / client / "ant" / "0.png", [[value]])
    source = ImageFolder(str(tmp_path / "train"), str(tmp_path / "test"), client_folders=True)
    dataset = build_dataset(source, None, seed=0, client_tests=True)
    rows = [(*dataset.train_rows(client), *dataset.holdout_rows(client)) for client in range(2)]
    pixels = dataset.train.inputs[np.array(rows)].reshape(2, 2).tolist()
    assert pixels == [[8 + 97, 7 + 97], [8 + 98, 7 + 98]]
    with pytest.raises(DataError, match=r"holds no images in folders CLIENT/CLASS"):
        ImageFolder(str(folder), client_folders=True).load(seed=0)


def test_images_are_decoded_once_and_again_if_one_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ImageFolder(str(folder)).load(seed=0).train.inputs
    assert isinstance(first, np.memmap)
    made = list(cache_folder("images").iterdir())
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
        again = ImageFolder(str(folder)).load(seed=0).train.inputs
    assert again.tolist() == first.tolist()
    stamp = (folder / "dog" / "2.png").stat()
    save(folder / "dog" / "2.png", [[1, 2, 3], [4, 5, 7]])
    os.utime(folder / "dog" / "2.png", (stamp.st_atime, stamp.st_mtime))
    assert ImageFolder(str(folder)).load(seed=0).train.inputs[2, 0, 1, 2] == 7
    assert len(list(cache_folder("images").iterdir())) == 2


def test_without_a_cache_images_are_decoded_in_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ImageFolder(str(folder)).load(seed=0).train.inputs.shape == (3, 1, 2, 3)


def test_what_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="holds no images in folders CLASS"):
        ImageFolder(str(folder / "dog")).load(seed=0)
    (folder / "dog" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png cannot be read as an image"):
        ImageFolder(str(folder)).load(seed=0)
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simfl\[images\]'"):
        ImageFolder(str(folder)).load(seed=0)
