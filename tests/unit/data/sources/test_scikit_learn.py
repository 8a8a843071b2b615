"""Tables of scikit-learn, and of OpenML without a network."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from simfl.data import IID, ScikitLearn, build_dataset
from simfl.errors import ConfigError, DataError


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes", "iris", "wine"])
def test_what_scikit_learn_ships_is_standardized(name: str) -> None:
    source = ScikitLearn(name, numbers="standardize")
    dataset = build_dataset(source, IID(clients=3), seed=0)
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    np.testing.assert_allclose(
        dataset.train.inputs, StandardScaler().fit_transform(x), rtol=1e-5, atol=1e-6
    )
    assert dataset.train.targets.tolist() == y.tolist()


def test_a_table_of_openml_is_read_with_its_own_target(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"age": [1.0, 2.0], "job": ["a", "b"], "class": ["no", "yes"]})
    frame["job"] = frame["job"].astype("category")

    def fetch(name: str, *, version: Any, as_frame: bool) -> Bunch:
        assert (name, version, as_frame) == ("adult", 2, True)
        return Bunch(frame=frame, target_names=["class"])

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    data = ScikitLearn("openml:adult", categories="one-hot", version=2)
    dataset = build_dataset(data, IID(clients=1), seed=0)
    assert dataset.train.inputs.tolist() == [[1, 1, 0], [2, 0, 1]]
    assert dataset.class_names == ("no", "yes")


def test_without_a_network_openml_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*args: Any, **options: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    message = "openml:other cannot be read from openml.org, nor from scikit-learn's cache: .*no rou"
    with pytest.raises(DataError, match=message):
        ScikitLearn("openml:other").load(seed=0)
    assert "without version" in str(ScikitLearn("openml:other").refuse_untrusted())
    assert ScikitLearn("openml:other", version=1).refuse_untrusted() is None


def test_a_name_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'wine'"):
        ScikitLearn("whine")
    with pytest.raises(ConfigError, match=r"there is no test_path; use data\.test_fraction"):
        ScikitLearn("wine", test_path="x")
