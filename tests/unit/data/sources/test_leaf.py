"""Files as LEAF's scripts write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simfl.data import Leaf, build_dataset
from simfl.errors import DataError


def write(path: Path, **users: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    data = {user: {"x": x, "y": y} for user, (x, y) in users.items()}
    sizes = [len(own["y"]) for own in data.values()]
    path.write_text(json.dumps({"users": [*data], "num_samples": sizes, "user_data": data}))
    return str(path)


def test_users_are_clients_with_tests_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.json", bob=([[0.5, 1], [2, 3]], [1, 0]))
    write(tmp_path / "train" / "b.json", ann=([[4, 5]], [2]))
    write(tmp_path / "test" / "a.json", ann=([[6, 7]], [1]), bob=([[8, 9]], [0]))
    source = Leaf(str(tmp_path / "train"), str(tmp_path / "test"), shape=(1, 1, 2))
    dataset = build_dataset(source, None, seed=0, client_tests=True)
    assert dataset.train.inputs.dtype == np.float32
    found = [
        [dataset.train.inputs[rows].reshape(-1, 2).tolist() for rows in
         (dataset.train_rows(client), dataset.holdout_rows(client))]
        for client in range(2)
    ]  # fmt: skip
    assert found == [[[[4, 5]], [[6, 7]]], [[[0.5, 1], [2, 3]], [[8, 9]]]]
    assert dataset.train.targets[dataset.train_rows(1)].tolist() == [1, 0]
    assert dataset.train.inputs.shape == (5, 1, 1, 2)


def test_text_becomes_numbers_of_characters(tmp_path: Path) -> None:
    train = write(tmp_path / "train.json", bob=(["to b", "o be"], ["e", " "]))
    test = write(tmp_path / "test.json", bob=(["be z"], ["t"]))
    data = Leaf(train, test).load(seed=0)
    alphabet = sorted(set("to be z"))
    assert data.train.inputs.tolist() == [[alphabet.index(c) for c in t] for t in ("to b", "o be")]
    assert data.train.targets.tolist() == [alphabet.index("e"), alphabet.index(" ")]
    assert data.test is not None
    assert data.test.targets.tolist() == [alphabet.index("t")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "has no user_data, as LEAF's files have"),
        ('{"user_data": {}}', "holds no examples"),
        ('{"user_data": {"a": {"x": [1], "y": []}}}', "user 'a': x and y are no lists of the same"),
        ('{"user_data": {"a": {"x": [[1], [1, 2]], "y": [0, 1]}}}', "x holds lists of several len"),
        ('{"user_data": {"a": {"x": ["ab", "c"], "y": [0, 1]}}}', "text of 1 to 2 characters"),
        ('{"user_data": {"a": {"x": [{}], "y": [0]}}}', "x holds object values"),
        ('{"user_data": {"a": {"x": [[1, 2]], "y": [0]}}}', r"shape \[2\] are not \[3\]; change"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Leaf(str(tmp_path / "a.json"), shape=(3,)).load(seed=0)
    with pytest.raises(DataError, match="there is no file"):
        Leaf(str(tmp_path / "none.json")).load(seed=0)
