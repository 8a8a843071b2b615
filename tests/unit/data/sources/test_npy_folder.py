"""Folders of arrays, mapped from files that may be larger than memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simfl.data import IID, NpyFolder, NpzFile, build_dataset
from simfl.errors import ConfigError, DataError


def arrays() -> dict[str, Any]:
    return {
        "inputs": np.arange(24, dtype=np.uint8).reshape(6, 4),
        "targets": np.array([0, 1, 0, 1, 0, 1]),
        "client": np.array([7, 3, 7, 4, 3, 7]),
        "test_inputs": np.arange(8, dtype=np.uint8).reshape(2, 4),
        "test_targets": np.array([1, 0]),
    }


def save(folder: Path, **changes: Any) -> NpyFolder:
    folder.mkdir(exist_ok=True)
    for name, array in {**arrays(), **changes}.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return NpyFolder(str(folder))


def test_it_holds_what_a_file_of_the_same_arrays_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", **arrays())
    of_file = build_dataset(NpzFile(str(tmp_path / "all.npz")), None, seed=0)
    of_folder = build_dataset(save(tmp_path / "all"), None, seed=0, holdout_fraction=0.0)
    assert of_folder.digest() == of_file.digest()


def test_another_process_opens_the_files(tmp_path: Path) -> None:
    inputs = np.arange(300_000, dtype=np.float32).reshape(-1, 3)
    others = {"targets": np.zeros(len(inputs), int), "test_inputs": None, "test_targets": None}
    source = save(tmp_path / "all", inputs=inputs, client=np.arange(len(inputs)) % 2, **others)
    dataset = build_dataset(source, None, seed=0)
    sent = pickle.dumps(dataset.train)
    assert len(sent) < 8 * len(inputs) + 10_000  # the targets
    found = pickle.loads(sent)
    assert isinstance(found.inputs.base, np.memmap)
    np.testing.assert_array_equal(found.inputs, inputs)
    save(tmp_path / "all", inputs=inputs[1:])
    with pytest.raises(DataError, match=r"inputs\.npy has another size or time of .*rsync -a"):
        pickle.loads(sent)
    (tmp_path / "all" / "inputs.npy").unlink()
    with pytest.raises(DataError, match=r"inputs\.npy is not there on .*at the same place on all"):
        pickle.loads(sent)


def test_what_would_copy_the_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"inputs\.npy is float64, which would be converted in mem"):
        save(tmp_path / "all", inputs=np.zeros((6, 4))).load(seed=0)
    source = save(tmp_path / "all")
    for options in ({"test_fraction": 0.2}, {"public": 0.2}, {"client_tests": True}):
        with pytest.raises(ConfigError, match="which copies examples that may be larger than"):
            build_dataset(source, IID(clients=2), seed=0, **options)


def test_what_is_no_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.npy file"):
        NpyFolder(str(tmp_path)).load(seed=0)
    np.save(tmp_path / "targets.npy", np.arange(3))
    header = (tmp_path / "targets.npy").read_bytes()[:128]
    for content in (b"", b"no array", header, header.replace(b"(3,)", b"(3,(")):
        (tmp_path / "inputs.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"inputs\.npy cannot be read"):
            NpyFolder(str(tmp_path)).load(seed=0)
    np.save(tmp_path / "inputs.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"inputs\.npy cannot be read"):
        NpyFolder(str(tmp_path)).load(seed=0)


UNDER_A_LIMIT = """
import resource, sys
import numpy as np, simfl
folder, out = sys.argv[1:]
scenario = {
    "rounds": 1,
    "data": {"source": "npy", "path": folder, "divide_by": 255},
    "model": {"kind": "logistic"},
    "client": {"per_round": 2, "steps": 2, "batch_size": 16, "optimizer": {"lrate": 0.1}},
    "evaluation": {"clients_every": 0},
}
simfl.run({**scenario, "data": {"source": "digits", "partition": {"kind": "iid", "clients": 3}}},
          out=out + "/first", backend="inline")  # threads, and what is imported late
with open("/proc/self/status") as status:
    used = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (768 << 20), -1))
print(simfl.run(scenario, out=out + "/second", backend="inline").history[-1]["train_loss"])
try:
    np.load(folder + "/inputs.npy")
except MemoryError:
    print("too large to load")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit does not count mapped files there")
def test_arrays_larger_than_memory_are_trained_on(tmp_path: Path) -> None:
    """1.5 GB of inputs, in a sparse file, with 768 MB of memory."""
    rows = 3 << 19
    folder = tmp_path / "large"
    folder.mkdir()
    np.lib.format.open_memmap(folder / "inputs.npy", "w+", np.uint8, (rows, 1024))
    np.save(folder / "targets.npy", np.arange(rows) % 2)
    np.save(folder / "client.npy", np.arange(rows) % 3)
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[1:] == ["too large to load", ""]
    assert float(done.stdout.split()[0]) == pytest.approx(np.log(2), abs=0.1)
