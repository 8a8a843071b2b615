"""Arrays in files: NumPy's .npz, and the handwritten digits that come with scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from simfl.data.arrays import source_data_from_arrays
from simfl.data.dataset import Array, Examples
from simfl.data.source import Source, SourceData, file_fault
from simfl.errors import DataError, one_line
from simfl.regular_files import open_regular


@dataclass(frozen=True)
class NpzFile(Source):
    """Named arrays of a file written by ``numpy.savez`` or ``savez_compressed``.

    ``inputs`` and ``targets`` are needed; ``test_inputs`` and ``test_targets`` are the test split,
    ``client`` holds the client of each example, and any other array with one value per example is
    a column, too. A model with several inputs gets them from ``inputs.NAME`` and
    ``test_inputs.NAME``. ``class_names`` holds the names of the class ids.

    Floats become float32; integer inputs stay integers, see ``data.divide_by`` for images of bytes.
    """

    name: ClassVar[str] = "npz"
    file_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    """The file."""

    def load(self, *, seed: int) -> SourceData:
        """Read the file."""
        return source_data_from_arrays(_read_npz(self.path), origin=self.path)


@dataclass(frozen=True)
class NpyFolder(Source):
    """A folder with a file for each array, as ``numpy.save`` writes it: larger than memory, too.

    The names of the files are those of the arrays of ``npz``: ``inputs.npy`` and ``targets.npy``,
    ``test_inputs.npy``, ``client.npy``... Inputs are mapped, not loaded: bytes, int32, int64 or
    float32; batches alone are in memory. The driver and all actors open the files by themselves, so
    that with several nodes the folder must be at the same place on each, copied with the times of
    its files (``rsync -a``).
    """

    name: ClassVar[str] = "npy"
    file_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    """The folder."""

    def load(self, *, seed: int) -> SourceData:
        """Map the files."""
        files = sorted(Path(self.path).glob("*.npy"))
        if not files:
            raise DataError(f"{self.path} holds no .npy file; write inputs.npy and targets.npy")
        arrays = {file.stem: _mapped(str(file)) for file in files}
        for name, array in arrays.items():
            is_input = name.removeprefix("test_").partition(".")[0] == "inputs"
            if is_input and array.dtype not in (np.uint8, np.int32, np.int64, np.float32, np.bool_):
                raise DataError(
                    f"{self.path}/{name}.npy is {array.dtype}, which would be converted in memory; "
                    "save it as float32, uint8, int32 or int64"
                )
        data = source_data_from_arrays(arrays, origin=self.path)
        test = data.test and replace(data.test, stays_in_files=True)
        return replace(data, train=replace(data.train, stays_in_files=True), test=test)


def _mapped(path: str) -> Array:
    try:
        with open_regular(path):
            pass  # no pipe, which would be waited for
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    # numpy raises many exceptions for a header that is cut short or changed.
    except Exception as error:
        raise DataError(f"{path} cannot be read ({one_line(error)})") from error
    return found


def _read_npz(path: str) -> dict[str, Array]:
    """Read every array of a .npz file.

    Raises:
        DataError: if there is no such file, it is no .npz file, or an array holds objects.
    """
    try:
        # Opened here, since numpy does not close a file that it cannot read.
        with open_regular(path) as opened:
            return _read_arrays(opened, path=path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    # numpy, zipfile and zlib raise many exceptions, and MemoryError for a forged shape.
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); it may be truncated") from error


def _read_arrays(opened: BinaryIO, *, path: str) -> dict[str, Array]:
    if not zipfile.is_zipfile(opened):
        raise DataError(f"{path} is not a .npz file; write one with numpy.savez(path, inputs=...)")
    opened.seek(0)
    # Without pickle, a file may hold numbers and text, but no code.
    with np.load(opened, allow_pickle=False) as file:
        return {name: _read_array(file, name, path=path) for name in file.files}


def _read_array(file: np.lib.npyio.NpzFile, name: str, *, path: str) -> Array:
    try:
        array = file[name]
    except ValueError as error:
        reason = one_line(error)
        raise DataError(f"{path}: array {name!r} cannot be read ({reason})") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name!r} is not an array but another kind of file")
    return array


@dataclass(frozen=True)
class Digits(Source):
    """1,797 grey images of handwritten digits, 8 by 8 pixels; they need no download.

    Inputs have shape (1797, 1, 8, 8), float32 in [0, 1]; targets are 0 to 9. There is no test
    split: ``test_fraction`` makes one.

    Source: Alpaydin and Kaynak, 1998, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49, the test part, as in ``sklearn.datasets.load_digits``.
    """

    name: ClassVar[str] = "digits"

    def load(self, *, seed: int) -> SourceData:
        """Return the images and their digits."""
        numbers = _read_digits()
        inputs = (numbers[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
        targets = numbers[:, -1].astype(np.int64)
        return SourceData(Examples(inputs, targets), class_names=tuple("0123456789"))


def _read_digits() -> Array:
    """Return the rows, 64 pixels and a digit, without importing scikit-learn, which takes a second.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("source 'digits' needs scikit-learn; install scikit-learn")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        with gzip.open(path, "rt") as file:
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
