"""No file is unpickled, since pickles run code."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from warm import WarmPython

# In its own process, since an audit hook cannot be removed.
SCRIPT = """
import pickle, sys, time
import numpy as np
import torch
import _pickle, simfl
from pathlib import Path
from typer.testing import CliRunner
from simfl.cli.main import app

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise SystemExit(f"unpickled {arguments}")

def unpickle(*arguments, **options):
    raise SystemExit("something was unpickled")

if sys.argv[2] == "check":
    sys.addaudithook(refuse)
    pickle.loads(pickle.dumps(Path("x")))

folder = Path(sys.argv[1])
scenario = {
    "rounds": 4,
    "data": {"source": "npz", "path": str(folder / "data.npz")},
    "model": {"kind": "logistic"},
    "client": {"optimizer": {"lrate": 0.1, "modules": ["momentum", "scaffold-client"]}},
    "server": {"optimizer": {"modules": ["adam", "scaffold-server"]}},
    "checkpoint": {"every": 2},
}
out = folder / "run"
simfl.run(scenario, out=out, backend="inline")
(out / "summary.json").unlink()
(out / "weights.safetensors").unlink()

sys.addaudithook(refuse)
pickle.load = pickle.loads = pickle.Unpickler = torch.load = unpickle
_pickle.load = _pickle.loads = _pickle.Unpickler = unpickle
simfl.resume(out, backend="inline")
for command in ("ls", "report"):
    result = CliRunner().invoke(app, [command, str(out)])
    assert result.exit_code == 0, result.output
"""


def run(warm: WarmPython, folder: Path, what: str) -> CompletedProcess[str]:
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.normal(size=(12, 3)), "targets": np.arange(12) % 2}
    np.savez(folder / "data.npz", client=np.arange(12) % 3, **arrays)
    return warm.run(SCRIPT, "script", folder, what, warnings="ignore")


def test_resuming_and_reporting_unpickle_nothing(tmp_path: Path, warm: WarmPython) -> None:
    result = run(warm, tmp_path, "nothing")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_pickle_would_have_been_noticed(tmp_path: Path, warm: WarmPython) -> None:
    assert "unpickled" in run(warm, tmp_path, "check").stderr


@pytest.mark.parametrize("name", ["inputs", "client"])
def test_an_npz_file_with_a_pickle_in_it_is_refused(tmp_path: Path, name: str) -> None:
    from simfl.data import NpzFile
    from simfl.errors import DataError

    arrays = {"inputs": np.zeros((3, 2)), "targets": np.arange(3), "client": np.arange(3)}
    np.savez(tmp_path / "data.npz", **{**arrays, name: np.array([print] * 3, dtype=object)})
    with pytest.raises(DataError, match=f"array '{name}' cannot be read"):
        NpzFile(str(tmp_path / "data.npz")).load(seed=0)
