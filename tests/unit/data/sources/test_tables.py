"""Encodings of tables, against scikit-learn's, and Parquet against CSV.

Shapes: N rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

import simfl
from simfl.data import IID, CsvFile, ParquetFile, Scaling, Source, build_dataset
from simfl.data.table_encoding import CategoryCode, NumberCode
from simfl.errors import ConfigError, DataError, ScenarioError

AGES = [31.0, None, 47.5, 22.0, 22.0, 60.0, 35.0, 41.0]
JOBS = ["cook", "nurse", None, "cook", "judge", "nurse", "nurse", "smith"]
CITIES = ["07", "7", "12", "7", "7", "12", "07", "12"]
RICH = ["no", "no", "yes", "no", "yes", "yes", "no", "yes"]
COLUMNS = {"age": AGES, "job": JOBS, "rich": RICH, "city": CITIES}
FITTED, OTHERS = np.arange(6), np.arange(6, 8)


def columns_of(rows: Any, **changes: list[Any]) -> dict[str, list[Any]]:
    return {name: [column[row] for row in rows] for name, column in (COLUMNS | changes).items()}


def write(path: Path, columns: dict[str, list[Any]]) -> str:
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
        return str(path)
    rows = zip(*columns.values(), strict=True)
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]))
    return str(path)


def build(source: Source) -> Any:
    return build_dataset(source, IID(clients=1), seed=0)


@pytest.fixture(params=[CsvFile, ParquetFile])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return what makes a source of six rows, and a test split of two."""
    suffix = request.param.name

    def make(**fields: Any) -> Source:
        changes = fields.pop("changes", {})
        path = write(tmp_path / f"a.{suffix}", columns_of(FITTED, **changes))
        test = write(tmp_path / f"b.{suffix}", columns_of(OTHERS, **changes))
        found: Source = request.param(path, target="rich", test_path=test, **fields)
        return found

    return make


@pytest.mark.parametrize("rule", ["mean", "median", "most-frequent"])
def test_numbers_are_filled_in_and_standardized_as_scikit_learn_does(rule: Any) -> None:
    rng = np.random.default_rng(0)
    trained, others = rng.normal(40, 9, 500).round(1), rng.normal(40, 9, 50)
    trained[rng.random(500) < 0.1], others[7] = np.nan, np.nan
    code = NumberCode.fit(trained, encoding="standardize", missing=rule)
    imputer, scaler = SimpleImputer(strategy=rule.replace("-", "_")), StandardScaler()
    scaler.fit(imputer.fit_transform(trained[:, None]))
    expected = scaler.transform(imputer.transform(others[:, None]))[:, 0]
    np.testing.assert_allclose(code.apply(others), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("value", [3.0, 0.1, 1e9 + 0.1])
def test_a_constant_column_becomes_zeros(value: float) -> None:
    code = NumberCode.fit(np.full(7, value), encoding="standardize", missing="mean")
    expected = StandardScaler().fit_transform(np.full((7, 1), value))[:, 0]
    assert code.apply(np.full(7, value)).tolist() == expected.tolist()


def test_categories_are_those_of_scikit_learn() -> None:
    trained, others = np.array(["b", "", "c", "a", "c"], object), np.array(["c", "d", ""], object)
    code = CategoryCode.fit(trained, missing="mean")
    known = trained[trained != ""][:, None]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(known)
    assert code.one_hot(others).tolist() == one_hot.transform(others[:, None]).tolist()
    index = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(known)
    assert code.ids(others).tolist() == (index.transform(others[:, None])[:, 0] + 1).tolist()
    filled = CategoryCode.fit(trained, missing="most-frequent")
    imputer = SimpleImputer(strategy="most_frequent", missing_values="").fit(trained[:, None])
    expected = one_hot.transform(imputer.transform(others[:, None]))
    assert filled.one_hot(others).tolist() == expected.tolist()


def test_mixed_columns_are_one_input_fitted_to_the_training_rows(table: Any) -> None:
    source = table(numbers="standardize", categories="one-hot", encode={"city": "one-hot"},
                   missing="mean")  # fmt: skip
    dataset = build(source)
    ages = SimpleImputer().fit_transform(np.array(AGES, float)[FITTED, None])
    scaler = StandardScaler().fit(ages)
    others = scaler.transform(np.array(AGES, float)[OTHERS, None])[:, 0]
    assert dataset.train.inputs.dtype == np.float32
    np.testing.assert_allclose(dataset.train.inputs[:, 0], scaler.transform(ages)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(dataset.test.inputs[:, 0], others, rtol=1e-6)
    jobs = [["cook", "judge", "nurse"].index(job) if job else None for job in JOBS[:6]]
    expected = [[float(job == k) for k in range(3)] for job in jobs]
    assert dataset.train.inputs[:, 1:4].tolist() == expected
    assert dataset.test.inputs[:, 1:].tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert dataset.class_names == ("no", "yes")
    assert dataset.train.targets.tolist() == [0, 0, 1, 0, 1, 1]


def test_categories_by_index_share_one_range_of_ids(table: Any) -> None:
    dataset = build(table(categories="index", encode={"city": "index"}, missing="median"))
    assert dataset.train.inputs["categories"].tolist() == [
        [1, 5], [3, 7], [0, 6], [1, 7], [2, 7], [3, 6],
    ]  # fmt: skip
    assert dataset.test.inputs["categories"].tolist() == [[3, 5], [0, 6]]
    assert dataset.train.inputs["numbers"].tolist() == [[31], [31], [47.5], [22], [22], [60]]


def test_held_out_examples_and_those_of_the_test_split_are_not_fitted_to(tmp_path: Path) -> None:
    ages = np.random.default_rng(0).normal(size=40)
    path = write(tmp_path / "a.csv", {"x": list(ages), "y": [0, 1] * 20})
    source = CsvFile(path, target="y", numbers="standardize")
    dataset = build_dataset(
        source, IID(clients=2), seed=0, test_fraction=0.25, holdout_fraction=0.5, public=0.2
    )
    rows = np.concatenate([dataset.train_rows(client) for client in range(2)])
    trained = dataset.train.inputs[rows, 0].astype(float)
    assert len(rows) == 12
    assert trained.mean() == pytest.approx(0, abs=1e-6)
    assert trained.std() == pytest.approx(1, abs=1e-6)
    parts = [dataset.train, dataset.test, dataset.public]
    every = np.concatenate([part.inputs[:, 0] for part in parts])
    # An affine map with a positive slope keeps the order.
    assert np.corrcoef(np.sort(every), np.sort(ages))[0, 1] == pytest.approx(1)


def test_rows_with_gaps_are_left_out_and_whole_targets_stay_classes(tmp_path: Path) -> None:
    for suffix, cls in (("csv", CsvFile), ("parquet", ParquetFile)):
        columns = {"x": [1.0, None, 3.0, 4.0], "y": [0, 1, None, 2]}
        data = cls(write(tmp_path / f"a.{suffix}", columns), target="y", missing="leave-out").load(
            seed=0
        )
        assert data.train.inputs.tolist() == [[1], [4]]
        assert data.train.targets.tolist() == [0, 2]
        assert data.train.targets.dtype == np.int64
        assert data.notes == (
            f"2 of 4 rows of {tmp_path}/a.{suffix} lack a value and are left out",
        )


def test_without_gaps_nothing_is_left_out(table: Any) -> None:
    columns = {"age": [1.5] * 8, "rich": [2, 0, 1, 0, 1, 2, 0, 1]}
    data = table(features=["age"], missing="leave-out", changes=columns).load(seed=0)
    assert data.train.targets.tolist() == columns["rich"][:6]
    assert data.train.targets.dtype == np.int64
    assert data.test.targets.tolist() == [0, 1]
    assert data.notes == ()


def test_parquet_and_csv_hold_the_same(tmp_path: Path) -> None:
    columns = {
        "x": [1.5, 2.0, -1.0],
        "flag": [0, 1, 1],
        "client": [7, 3, 7],
        "y": [0.5, 1.5, 2.5],
        "note": ["a", "b", "c"],
    }
    typed = {**columns, "flag": [False, True, True]}
    csv = build_dataset(CsvFile(write(tmp_path / "a.csv", columns), "y"), None, seed=0)
    table = build_dataset(ParquetFile(write(tmp_path / "a.parquet", typed), "y"), None, seed=0)
    assert csv.digest() == table.digest()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, DataError, "column 'age'.*"),
        ({"features": ["job"]}, DataError, "begins with 'cook', which is not a number; leave it"),
        ({"features": ["job"], "categories": "index"}, DataError,
         "column 'job' has no value at row 2; set data.missing"),
        ({"encode": {"rich": "index"}}, ConfigError, "'rich', which is the target or the client"),
        ({"features": ["age"], "encode": {"aeg": "index"}}, ConfigError, "Did you mean 'age'"),
        ({"encode": {"jobs": "index"}, "missing": "mean"}, DataError, "Did you mean 'job'"),
        ({"encode": {"job": "standardize"}, "missing": "mean"}, DataError, "is not a number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(table: Any, fields: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        table(**fields).load(seed=0)


def test_encodings_do_not_go_with_another_scaling(table: Any) -> None:
    source = table(numbers="standardize", missing="mean")
    with pytest.raises(ConfigError, match=r"do not go with the encodings of a table; set data\.nu"):
        build_dataset(source, IID(clients=1), seed=0, scaling=Scaling(divide_by=2))


def test_too_many_categories_for_one_hot_are_refused(tmp_path: Path) -> None:
    names = [f"n{row}" for row in range(1001)]
    path = write(tmp_path / "a.csv", {"name": names, "y": [0.5] * 1001})
    with pytest.raises(DataError, match="'name' has 1001 categories, too many for one-hot; encode"):
        build(CsvFile(path, target="y", categories="one-hot"))


def test_bad_parquet_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match="there is no file"):
        ParquetFile(str(path), target="y").load(seed=0)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        ParquetFile(str(path), target="y").load(seed=0)
    content = Path(write(path, {"x": [1, 2], "y": [0, 1]})).read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:footer] + b"\xff" * 8 + content[footer + 8 :])
    with pytest.raises(DataError, match=r"cannot be read: Couldn't deserialize thrift: [^\n]+$"):
        ParquetFile(str(path), target="y").load(seed=0)
    write(path, {"x": [[1], [2]], "y": [0, 1]})
    with pytest.raises(DataError, match="column 'x' holds neither numbers nor text"):
        ParquetFile(str(path), target="y", features=("x",)).load(seed=0)
    write(path, {"x": [1.0, float("inf")], "y": [0, 1]})
    with pytest.raises(DataError, match="column 'x' holds inf at row 1"):
        ParquetFile(str(path), target="y").load(seed=0)


def test_a_table_with_embeddings_is_learnt(tmp_path: Path) -> None:
    """The class follows from the category alone, whose ids have no order."""
    rng = np.random.default_rng(0)
    letters = rng.choice(list("abcdef"), 200).tolist()
    columns = {
        "letter": letters,
        "noise": rng.normal(size=200).tolist(),
        "y": [int(letter in "ace") for letter in letters],
    }
    scenario = {
        "rounds": 4,
        "data": {
            "source": "parquet",
            "path": write(tmp_path / "a.parquet", columns),
            "target": "y",
            "categories": "index",
            "numbers": "standardize",
            "test_fraction": 0.25,
            "partition": {"kind": "iid", "clients": 4},
        },
        "model": {"kind": "table-mlp", "embedding": 4, "hidden": [16]},
        "client": {"steps": 10, "optimizer": {"lrate": 0.05, "modules": ["adam"]}},
    }
    for kind, change in (("mlp", {}), ("table-mlp", {"categories": "one-hot"})):
        wrong = {**scenario, "data": {**scenario["data"], **change}, "model": {"kind": kind}}
        with pytest.raises(ScenarioError, match=r"model: .*set data\.categories: (one-hot|index)"):
            simfl.run(wrong, out=tmp_path / "wrong", backend="inline")
    stacked = {**scenario, "client": {**scenario["client"], "stack": 4}}
    one, four = (
        simfl.run(each, out=tmp_path / f"out{i}", backend="inline").history
        for i, each in enumerate(
            [{**scenario, "client": {**scenario["client"], "stack": 1}}, stacked]
        )
    )
    assert one[-1]["accuracy"] == 1.0
    assert four[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=1e-4)
