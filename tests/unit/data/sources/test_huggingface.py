"""Data sets written to disk by the real library."""

import json
import pickle
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from simfl.data import HuggingFace, Scaling
from simfl.errors import DataError, MissingExtraError

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def image(mode, *pixels):
    """Make an image of two pixels, one above the other."""
    picture = Image.new(mode, (1, 2))
    picture.putdata(pixels)
    return picture


@pytest.fixture
def load(tmp_path):
    """Save columns to disk, then load them."""

    def save_and_load(columns, *, features=None, **fields):
        path = str(tmp_path / "saved")
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(path)
        return HuggingFace(path=path, **fields).load(seed=0)

    return save_and_load


def test_colour_images_stay_bytes_with_channels_first_to_be_divided_by_255(load):
    columns = {"image": [image("RGB", (255, 0, 51), (0, 102, 255))], "label": [3]}
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int32"))
    train = load(columns, features=features, inputs="image").train
    assert train.inputs.dtype == np.uint8
    assert train.scaling == Scaling(divide_by=255)
    assert train.inputs.shape == (1, 3, 2, 1)
    red, green, blue = train.inputs[0, :, :, 0].tolist()
    assert (red, green, blue) == ([255, 0], [0, 102], [51, 255])
    assert train.targets.tolist() == [3]
    assert train.targets.dtype == np.int64


def test_images_with_other_inputs_are_in_unit_range(load):
    columns = {"image": [image("L", 0, 51)], "age": [40], "label": [3]}
    types = {"image": datasets.Image(), "age": datasets.Value("int64")}
    features = datasets.Features(**types, label=datasets.Value("int64"))
    train = load(columns, features=features, inputs=("image", "age")).train
    # 51 / 255 = 1/5, rounded to the nearest float32
    assert train.inputs["image"].reshape(-1).tolist() == [0, np.float32(0.2)]
    assert train.inputs["age"].tolist() == [40]
    assert train.scaling is None


def test_grey_images_have_one_channel(load):
    columns = {"image": [image("L", 0, 255), image("1", 1, 0)], "label": [0, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    inputs = load(columns, features=features, inputs="image").train.inputs
    assert inputs[:, :, :, 0].tolist() == [[[0, 255]], [[255, 0]]]


def test_grey_images_among_colour_ones_get_three_channels(load):
    columns = {"image": [image("L", 255, 0), image("RGB", (0, 0, 0), (255, 0, 0))], "label": [0, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    inputs = load(columns, features=features, inputs="image").train.inputs
    assert inputs[0, :, :, 0].tolist() == [[255, 0]] * 3
    assert inputs[1, :, :, 0].tolist() == [[0, 255], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (
            [image("L", 0, 0), Image.new("L", (3, 2))],
            "the image of row 1 is 3 by 2 pixels, that of row 0 1 by 2 pixels; resize",
        ),
        ([image("L", 0, 0), None], "row 1 has no image; leave the row out"),
        ([image("I;16", 0, 0)], "row 0: images of mode 'I;16' cannot be used"),
    ],
    ids=["sizes", "missing", "16 bits"],
)
def test_images_that_do_not_make_one_array_are_refused(load, pictures, message):
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    columns = {"image": pictures, "label": [0] * len(pictures)}
    with pytest.raises(DataError, match=message):
        load(columns, features=features, inputs="image")


def test_class_labels_keep_their_ids_and_names(load):
    features = datasets.Features(
        x=datasets.Value("float64"), label=datasets.ClassLabel(names=["dog", "ant"])
    )
    data = load({"x": [0.5, 1.5], "label": [1, 0]}, features=features, inputs="x")
    assert data.class_names == ("dog", "ant")
    assert data.train.targets.tolist() == [1, 0]
    assert data.train.inputs.dtype == np.float32
    assert data.train.inputs.tolist() == [0.5, 1.5]


def test_a_row_without_a_label_is_named(load):
    features = datasets.Features(
        x=datasets.Value("float64"), label=datasets.ClassLabel(names=["dog", "ant"])
    )
    with pytest.raises(DataError, match="row 1 has no label in column 'label'"):
        load({"x": [0.5, 1.5], "label": [1, -1]}, features=features, inputs="x")


def test_sequences_of_one_length_become_an_axis(load):
    train = load({"tokens": [[1, 2, 3], [4, 5, 6]], "label": [0, 1]}, inputs="tokens").train
    assert train.inputs.dtype == np.int64
    assert train.inputs.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2, 3], [4]], "column 'x' holds sequences of 1 to 3 values; cut or pad them"),
        ([1.0, None], "column 'x' holds empty or mixed values"),
        (["some", "text"], "x?inputs holds text; numbers are needed"),
    ],
)
def test_values_that_do_not_make_one_array_are_refused(load, values, message):
    with pytest.raises(DataError, match=message):
        load({"x": values, "label": [0, 1]}, inputs="x")


def test_several_inputs_text_targets_and_clients(load):
    columns = {"a": [1, 2], "b": [0.5, 0.25], "kind": ["no", "yes"], "user": ["u2", "u1"]}
    data = load(columns, inputs=["a", "b"], target="kind", client="user")
    assert {name: array.tolist() for name, array in data.train.inputs.items()} == {
        "a": [1, 2],
        "b": [0.5, 0.25],
    }
    assert data.class_names == ("no", "yes")
    assert data.columns["client"].tolist() == ["u2", "u1"]


def test_a_saved_dict_of_splits_gives_train_and_test(tmp_path):
    path = str(tmp_path / "splits")
    splits = {
        "train": datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": ["b", "a"]}),
        "test": datasets.Dataset.from_dict({"x": [3.0], "label": ["b"]}),
    }
    datasets.DatasetDict(splits).save_to_disk(path)
    data = HuggingFace(path=path, inputs="x", test_split="test").load(seed=0)
    assert data.train.targets.tolist() == [1, 0]
    assert data.test.inputs.tolist() == [3.0]
    assert data.test.targets.tolist() == [1]
    with pytest.raises(DataError, match=r"has no split 'tset'\. Did you mean 'test'\?"):
        HuggingFace(path=path, inputs="x", split="tset").load(seed=0)


# The library leaves its CSV reader to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_data_file_is_read_by_its_ending(tmp_path, kind):
    path = str(tmp_path / f"data.{kind}")
    table = datasets.Dataset.from_dict({"x": [1.5, 2.5, 3.5], "label": [0, 1, 1]})
    getattr(table, {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[kind])(path)
    train = HuggingFace(path=path, inputs="x", split="train[1:]").load(seed=0).train
    assert train.inputs.tolist() == [2.5, 3.5]
    assert train.targets.tolist() == [1, 1]


def test_a_saved_data_set_without_splits_has_no_test_split(load):
    with pytest.raises(DataError, match="one data set without splits, so there is no 'test'"):
        load({"x": [1.0], "label": [0]}, inputs="x", test_split="test")


def test_a_data_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "data.xls"
    path.write_text("x")
    with pytest.raises(DataError, match=r"'\.xls' is not a format it can be in: \.csv"):
        HuggingFace(path=str(path), inputs="x").load(seed=0)


def test_a_data_set_that_cannot_be_found_is_named_with_its_split():
    with pytest.raises(DataError, match=r"nobody/nothing, split 'train', cannot be read: "):
        HuggingFace(path="nobody/nothing", inputs="x").load(seed=0)


@pytest.mark.parametrize(
    "path", ["/tmp/not/there", "https://host/d.csv", "reference::file:///refs.json", "csv", "a/b/c"]
)
def test_invalid_names_of_data_sets_are_not_looked_up(path):
    with pytest.raises(DataError, match=r"is neither a file, a folder, nor the name of a data set"):
        HuggingFace(path=path, inputs="x").load(seed=0)


class Marks:
    """What writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def marking(tmp_path):
    """A chained URL of fsspec's whose templates write a file, and that file."""
    marker = tmp_path / "EXECUTED"
    code = f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}"
    generated = [{"key": code, "url": "x", "dimensions": {"i": [1]}}]
    refs = tmp_path / "refs.json"
    refs.write_text(json.dumps({"version": 1, "gen": generated, "refs": {}}))
    return f"reference://x::file://{refs}", marker


def test_a_template_would_run_code(marking):
    """Which shows what the tests below would have missed."""
    url, marker = marking
    with pytest.raises(FileNotFoundError):
        fsspec.open(url).open()
    assert marker.exists()


def test_the_readme_of_a_folder_runs_no_code(tmp_path, marking):
    url, marker = marking
    (tmp_path / "theirs").mkdir()
    configs = f"- config_name: default\n  data_files: '{url}'\n"
    (tmp_path / "theirs" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(
        DataError, match="it names an fsspec reference file system, which could run"
    ):
        HuggingFace(path=str(tmp_path / "theirs"), inputs="x").load(seed=0)
    assert not marker.exists()
    assert fsspec.get_filesystem_class("reference").__name__ == "ReferenceFileSystem"


def test_the_path_of_an_image_runs_no_code(tmp_path, marking, monkeypatch):
    url, marker = marking
    monkeypatch.chdir("/")  # the library takes the first slash off the path in such a URL
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    pictures = pa.array([{"bytes": None, "path": url}], features["image"].pa_type)
    described = json.dumps({"info": {"features": features.to_dict()}})
    table = pa.table({"image": pictures, "label": [0]}).replace_schema_metadata(
        {"huggingface": described}
    )
    parquet.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(
        DataError, match="an image cannot be read: it names an fsspec reference file system"
    ):
        HuggingFace(path=str(tmp_path / "data.parquet"), inputs="image").load(seed=0)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:The Pandas builder:FutureWarning")
def test_a_pickle_in_the_current_folder_is_not_read(tmp_path, monkeypatch):
    """Without named files, the library's reader of pickles reads those of the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("train.pkl").write_bytes(pickle.dumps(Marks(str(tmp_path / "EXECUTED"))))
    with pytest.raises(DataError):
        HuggingFace(path="pandas", inputs="x").load(seed=0)
    assert not (tmp_path / "EXECUTED").exists()


def test_a_column_that_is_not_there_is_named_with_its_field_and_the_nearest(load):
    with pytest.raises(DataError, match=r"data\.source\.inputs: .*'imag'\. Did you mean 'image'"):
        load({"image": [1.0], "label": [0]}, inputs="imag")


def test_without_the_library_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simfl\[hf\]'"):
        HuggingFace(path="x", inputs="x").load(seed=0)


@pytest.mark.parametrize("allowed", [None, True])
def test_a_data_sets_own_code_is_never_run(load, monkeypatch, allowed):
    """What datasets reads before version 4, from the environment; later ones run no such code."""
    name = "HF_DATASETS_TRUST_REMOTE_CODE"
    monkeypatch.setattr(datasets.config, name, allowed, raising=False)
    load({"x": [1.0, 2.0], "label": [0, 1]}, inputs="x")
    assert getattr(datasets.config, name) is False


@pytest.mark.parametrize("revision", [None, "0a1b2c"])
def test_the_hub_is_asked_for_the_revision(monkeypatch, revision):
    data = datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": [0, 1]})
    asked = []

    def answer(*args, **options):
        asked.append((args, options))
        return data

    monkeypatch.setattr(datasets, "load_dataset", answer)
    fields = {"path": "someone/data", "config": "plain", "revision": revision}
    HuggingFace(inputs="x", test_split="test", **fields).load(seed=0)
    splits = ("train", "test")
    expected = [(("someone/data", "plain"), {"split": s, "revision": revision}) for s in splits]
    assert asked == expected


def test_a_folder_has_no_revision(load):
    with pytest.raises(DataError, match=r"revision is 'main', but .*saved is a file or folder on"):
        load({"x": [1.0], "label": [0]}, inputs="x", revision="main")
