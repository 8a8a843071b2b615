"""Tables in CSV files, good and bad ones."""

import numpy as np
import pytest

from simfl.data import CsvFile
from simfl.data.sources import csv_file
from simfl.errors import ConfigError, DataError


@pytest.fixture
def load(tmp_path):
    """Write text to a file, then load it."""

    def write_and_load(text, *, test=None, **fields):
        path = tmp_path / "data.csv"
        path.write_text(text, encoding="utf-8")
        if test is not None:
            (tmp_path / "test.csv").write_text(test, encoding="utf-8")
            fields["test_path"] = str(tmp_path / "test.csv")
        return CsvFile(path=str(path), **{"target": "y", **fields}).load(seed=0)

    return write_and_load


def test_numeric_columns_are_the_inputs_in_the_order_of_the_file(load):
    data = load("b,y,a\n1.5,0,2\n-3e2,1,4\n")
    assert data.train.inputs.dtype == np.float32
    assert data.train.inputs.tolist() == [[1.5, 2], [-300, 4]]
    assert data.train.targets.dtype == np.int64
    assert data.train.targets.tolist() == [0, 1]


def test_named_features_are_the_inputs_in_the_order_named(load):
    data = load("a,b,c,y\n1,2,x,0\n3,4,y,1\n", features=["b", "a"])
    assert data.train.inputs.tolist() == [[2, 1], [4, 3]]
    assert data.columns["c"].tolist() == ["x", "y"]


def test_text_targets_become_class_ids_with_names(load):
    data = load("a,y\n1,no\n2,yes\n3,no\n", test="y,a\nyes,9\n")
    assert data.class_names == ("no", "yes")
    assert data.train.targets.tolist() == [0, 1, 0]
    assert data.test.targets.tolist() == [1]
    assert data.test.inputs.tolist() == [[9]]


def test_targets_with_a_decimal_point_are_numbers_in_both_splits(load):
    data = load("a,y\n1,2\n2,0.5\n", test="a,y\n3,4\n")
    assert data.train.targets.dtype == np.float32
    assert data.train.targets.tolist() == [2, 0.5]
    assert data.test.targets.dtype == np.float32


def test_a_column_of_text_may_start_with_a_marker_of_missing_values(load):
    data = load("a,country,y\n1,NA,?\n2,US,no\n3,?,yes\n")
    assert data.train.inputs.tolist() == [[1], [2], [3]]
    assert data.columns["country"].tolist() == ["NA", "US", "?"]
    assert data.class_names == ("?", "no", "yes")


def test_a_column_called_client_is_no_feature(load):
    data = load("a,client,y\n1,10,0\n2,9,1\n")
    assert data.train.inputs.tolist() == [[1], [2]]
    assert data.columns["client"].tolist() == [10, 9]


def test_another_column_can_be_the_client_and_keeps_its_name_too(load):
    data = load("a,hospital,y\n1,7A,0\n2,B,1\n", client="hospital")
    assert data.columns["client"].tolist() == ["7A", "B"]
    assert data.columns["hospital"].tolist() == ["7A", "B"]


def test_client_ids_with_leading_zeros_stay_different_clients(load):
    data = load("a,client,y\n1,007,0\n2,7,1\n")
    assert data.columns["client"].tolist() == ["007", "7"]


def test_quotes_empty_lines_and_a_byte_order_mark_are_understood(load):
    data = load('\ufeffa,"the, y"\n"1",b\n\n2,"b ""c""\nd"\n', target="the, y")
    assert data.train.inputs.tolist() == [[1], [2]]
    assert data.class_names == ("b", 'b "c"\nd')


def test_another_delimiter_can_be_given(load):
    assert load("a;y\n1;0\n", delimiter=";").train.inputs.tolist() == [[1]]


def test_a_file_longer_than_a_chunk_is_read_whole(load, monkeypatch):
    monkeypatch.setattr(csv_file, "_CHUNK_ROWS", 2)
    data = load("a,c,y\n1,x,0\n2,x,1\n3.5,long,0\n4,x,1\n5,x,2\n")
    assert data.train.inputs[:, 0].tolist() == [1, 2, 3.5, 4, 5]
    assert data.train.targets.tolist() == [0, 1, 0, 1, 2]
    assert data.columns["c"].tolist() == ["x", "x", "long", "x", "x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line must name the columns"),
        ("a,y\n", "has a header but no rows"),
        ("a,y,a\n1,2,3\n", "two columns are called 'a'; rename one"),
        ("a,y\n1,0\n2\n", "line 3: 1 cells, but the header has 2"),
        ("a,y\n1,0,5\n", "line 2: 3 cells, but the header has 2"),
        ("a,y\n1,0\nx,1\n", "line 3, column 'a': 'x' is not a finite number"),
        ("a,y\n1,0\n\n2,1\n,1\n", "line 5, column 'a': '' is not a finite number"),
        ("a,y\n,0\n1,1\n", "line 2, column 'a': '' is not a finite number"),
        ("a,y\nnan,0\n1,1\n", "line 2, column 'a': 'nan' is not a finite number"),
        ("a,y\n1,0\ninf,1\n", "line 3, column 'a': 'inf' is not a finite number"),
        ("a,y\n1,0\n2,?\n", "line 3, column 'y': '?' is not a finite number"),
        ("a,b,y\n?,1,0\n2,1,1\n", "line 2, column 'a': '?' is not a finite number"),
        ("a,b,y\nNA,1,0\nn/a,1,1\n2,3,1\n", "line 2, column 'a': 'NA' is not a finite number"),
        ("a,y\n1,0\n1_000,1\n", "line 3, column 'a': '1_000' is not a finite number"),
        ("a,y\n1,0\n1_0.5,1\n", "line 3, column 'a': '1_0.5' is not a finite number"),
        ("a,y\n1,0\n١٢,1\n", "line 3, column 'a': '١٢' is not a finite number"),
        ("a,y\n1.5,0\n２.5,1\n", "line 3, column 'a': '２.5' is not a finite number"),
        ("b,a,y\n1,1_000,0\n2,5,1\n", "line 2, column 'a': '1_000' is not a finite number"),
        ("b,a,y\n1,?,0\n2,٣,1\n", "line 2, column 'a': '?' is not a finite number"),
        ("b,a,y\n1,٣,0\n2,5,1\n", "line 2, column 'a': '٣' is not a finite number"),
        ("b,y\n1,1_000\n2,5\n", "line 2, column 'y': '1_000' is not a finite number"),
        ("a,Y\n1,0\n", r"data\.source\.target: .* has no column 'y'"),
        ("a,y\nx,0\nz,1\n", "has no numeric column besides the target 'y'"),
        ('a,y\n1,"0\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused(load, text, message):
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        load(text)


def test_the_line_of_a_bad_cell_counts_lines_within_quotes(load):
    with pytest.raises(DataError, match="line 5, column 'a': 'x'"):
        load('c,a,y\n"1\n2\n3",1,0\nz,x,1\n')


def test_a_bad_cell_in_a_column_that_is_left_out_does_no_harm(load):
    assert load("a,b,y\n1,2,0\n3,?,1\n", features=["a"]).train.inputs.tolist() == [[1], [3]]


def test_a_feature_that_is_text_is_refused(load):
    with pytest.raises(DataError, match="column 'b' begins with 'u', which is not a number"):
        load("a,b,y\n1,u,0\n", features=["a", "b"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "lable"}, r"data\.source\.target: .*'lable'\. Did you mean 'label'\?"),
        ({"features": ["ago"]}, r"data\.source\.features: .*'ago'\. Did you mean 'age'\?"),
        ({"client": "usr"}, r"data\.source\.client: .*'usr'\. Did you mean 'user'\?"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_field(load, fields, message):
    with pytest.raises(DataError, match=message):
        load("age,user,label\n1,2,3\n", **{"target": "label", **fields})


def test_a_test_file_must_have_the_features(load):
    with pytest.raises(DataError, match=r"data\.source\.test_path: .* has no column 'b'"):
        load("a,b,y\n1,2,0\n", test="a,y\n1,0\n")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"a,y\n\xff\xfe,0\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        CsvFile(path=str(path), target="y").load(seed=0)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        CsvFile(path=str(tmp_path / "none.csv"), target="y").load(seed=0)


def test_a_delimiter_of_two_characters_is_refused():
    with pytest.raises(ConfigError, match="delimiter is '::'; it must be one character"):
        CsvFile(path="x", target="y", delimiter="::")
