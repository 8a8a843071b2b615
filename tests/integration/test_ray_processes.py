"""If Ray dies or is stopped, a run ends with a message, and leaves only its folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import simfl
from simfl.cluster.processes import started_at
from simfl.record import RoundRecord

pytestmark = pytest.mark.ray

HERE = Path(__file__).parent
SCENARIO = f"""
rounds: 3
plugins: [killing]
search: ["{HERE}"]
data: {{source: digits, test_fraction: 0.2, partition: {{kind: iid, clients: 4}}}}
model: {{kind: logistic}}
client:
  batch_size: 50
  optimizer: {{lrate: 0.1, modules: [[hold-at, {{folder: FOLDER, client: 1, round: 3}}]]}}
checkpoint: {{every: 1}}
cluster: {{actors: 2}}
"""
# Ray's processes are given less time than users are; and only Ray's own, as they are known here.
RUN = """
import sys
from simfl.cluster import processes
_, scenario, pids, out = sys.argv
processes.STOPPED_S = 3.0
vital = processes.vital_processes
def written(addresses):
    found = vital(addresses)
    with open(pids, "w") as file:
        file.write("\\n".join(f"{pid} {what}" for pid, what in found.items()))
    return found
from simfl.cluster import session
session.vital_processes = written
import simfl.cli.main as cli
sys.argv = ["simfl", "run", scenario, "--out", out]
cli.main()
"""


DIED, STOPPED = " (process {}) has died", " (process {}) has been stopped for 3 s"
SILENT = "the run's process was killed, or Ray ended it"


@pytest.mark.parametrize(
    ("victim", "number", "code", "said"),
    [
        ("raylet", signal.SIGKILL, 1, DIED),
        pytest.param("raylet", signal.SIGSTOP, 1, STOPPED, marks=pytest.mark.slow),
        pytest.param("control service", signal.SIGKILL, 1, DIED, marks=pytest.mark.slow),
        pytest.param("control service", signal.SIGSTOP, 1, STOPPED, marks=pytest.mark.slow),
        pytest.param("driver", signal.SIGKILL, -9, SILENT, marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_rays_processes_ends_the_run_with_a_message_and_nothing_is_left(
    victim: str, number: int, code: int, said: str, tmp_path: Path
) -> None:
    """A resume then gives the numbers of an undisturbed run."""
    scenario, pids, out = tmp_path / "scenario.yaml", tmp_path / "pids", tmp_path / "out"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    scenario.write_text(SCENARIO.replace("FOLDER", str(tmp_path)))
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(scenario), str(pids), str(out)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    environment.pop("RAY_TMPDIR", None)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
        try:
            while not (tmp_path / "hold-3-0").exists():
                assert run.poll() is None, run.communicate()
                time.sleep(0.1)
            known = dict(reversed(line.split(" ", 1)) for line in pids.read_text().splitlines())
            pid = run.pid if victim == "driver" else int(known[f"Ray's {victim}"])
            os.kill(pid, number)
            _, stderr = run.communicate(timeout=120)
        finally:
            run.kill()
    (tmp_path / "go").touch()
    assert run.returncode == code
    assert said.format(pid) in stderr
    assert "'simfl resume' continues from the last checkpoint" in stderr
    while any(started_at(int(known[name])) for name in known):
        time.sleep(0.1)
    assert not list(temporary.iterdir())
    if victim != "driver":
        assert json.loads((out / "summary.json").read_text())["status"] == "failed"
    resumed = simfl.resume(out, backend="inline")
    expected = simfl.run(str(scenario), out=tmp_path / "undisturbed", backend="inline")
    assert [RoundRecord.parse(r).reproducible for r in resumed.history] == [
        RoundRecord.parse(r).reproducible for r in expected.history
    ]
