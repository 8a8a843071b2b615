"""A killed process costs time and not results: the bits are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ray

import simfl
import simfl.cluster.series
from simfl.cluster.engine import RayEngine
from simfl.cluster.remote_server import RemoteServer
from simfl.cluster.series import SeriesRunner
from simfl.errors import ClusterError, RunError
from simfl.record import RoundRecord
from simfl.simulation.backends import make_engine
from simfl.simulation.building import build
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.rounds import run_rounds

pytestmark = pytest.mark.ray

HERE = str(Path(__file__).parent)
BASE: dict[str, Any] = {
    "rounds": 3,
    "seed": 5,
    "plugins": ["killing", "third_party"],
    "search": [HERE],
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 8, "alpha": 0.5},
    },
    "model": {"kind": "logistic"},
    "cluster": {"actors": 2, "chunk_size": 2},
}


def scenario(*, client: list[Any] = (), server: list[Any] = (), **cluster: Any) -> dict[str, Any]:  # type: ignore[assignment]
    """SCAFFOLD, noise, a kept momentum, FedProx; Adam and an aggregator with a state on the server;
    and what kills."""
    noise = ["gaussian-noise", {"std": 0.01}]
    return BASE | {
        "client": {
            "batch_size": 16,
            "optimizer": {
                "lrate": 0.1,
                "regularizers": ["fedprox"],
                "modules": ["scaffold-client", noise, "fading", "momentum", *client],
            },
        },
        "server": {
            "optimizer": {"lrate": 0.01, "modules": ["scaffold-server", "adam", *server]},
            "aggregator": ["centered-clipping", {"radius": 0.05}],
        },
        "cluster": BASE["cluster"] | cluster,
    }


def numbers(scenario: dict[str, Any], out: Path, backend: str = "ray") -> tuple[Any, ...]:
    """Return every number of a run but its seconds."""
    return numbers_of(simfl.run(scenario, out=out, backend=backend))  # type: ignore[arg-type]


def numbers_of(result: Any) -> tuple[Any, ...]:
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [RoundRecord.parse(record).reproducible for record in result.history]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The numbers of a run in one process that nothing has happened to."""
    return numbers(scenario(), tmp_path_factory.mktemp("undisturbed") / "out", "inline")


def killer(folder: Path, **config: Any) -> list[Any]:
    return ["kill-at", {"folder": str(folder), **config}]


def shots(folder: Path) -> int:
    return len(list(folder.glob("*-*-*")))


@pytest.mark.parametrize(
    ("actor", "times"), [pytest.param("client-0", 2, marks=pytest.mark.slow), ("server", 1)]
)
def test_an_actor_killed_in_its_very_first_start(
    actor: str, times: int, tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    kill = ["kill-on-arrival", {"folder": str(tmp_path), "actor": actor, "times": times}]
    assert numbers(scenario(client=[kill]), tmp_path / "out") == undisturbed
    assert shots(tmp_path) == times


@pytest.mark.slow
def test_an_actor_that_dies_in_every_start_ends_the_run_and_is_named(
    tmp_path: Path, ray_cluster: None
) -> None:
    kill = ["kill-on-arrival", {"folder": str(tmp_path), "actor": "client-1", "times": 9}]
    with pytest.raises(ClusterError, match="starting client-1: its process died"):
        simfl.run(scenario(client=[kill], max_retries=1), out=tmp_path / "out")
    assert shots(tmp_path) == 2


@pytest.mark.slow
def test_two_actors_at_once_and_the_same_chunk_twice(
    tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    kills = [
        killer(tmp_path, client=0, round=2, times=2),
        killer(tmp_path, client=7, round=2),
        killer(tmp_path, client=5, round=3, step=2),
    ]
    assert numbers(scenario(client=kills), tmp_path / "out") == undisturbed
    assert shots(tmp_path) == 4


@pytest.mark.parametrize("round", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_server_killed_in_its_step(
    round: int, tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    disturbed = scenario(server=[killer(tmp_path, client=-1, round=round)])
    assert numbers(disturbed, tmp_path / "out") == undisturbed
    assert shots(tmp_path) == 1


@pytest.mark.parametrize(
    ("side", "client"), [("client", 3), pytest.param("server", -1, marks=pytest.mark.slow)]
)
def test_a_stopped_actor_is_killed_when_its_time_is_up(
    side: str, client: int, tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    """Its plug-ins are more text than Ray passes on without the object store."""
    (tmp_path / "bulky.py").write_text("# much\n" * 50_000)
    stop: Any = {side: [killer(tmp_path, client=client, round=2, signal=int(signal.SIGSTOP))]}
    # On a machine that stands still itself, chunks may be taken for stalled that are not: that
    # costs time and changes nothing else, however often it happens.
    disturbed = scenario(**stop, stall_limit_s=4.0, max_retries=100)
    disturbed |= {"plugins": [*BASE["plugins"], "bulky"], "search": [HERE, str(tmp_path)]}
    assert numbers(disturbed, tmp_path / "out") == undisturbed
    assert shots(tmp_path) == 1


def test_a_chunk_that_kills_its_actor_each_time_ends_the_run_and_is_named(
    tmp_path: Path, ray_cluster: None
) -> None:
    poison = scenario(client=[killer(tmp_path, client=3, round=2, times=9)], max_retries=1)
    with pytest.raises(ClusterError, match=r"round 2, clients .*\b3\b.* on client-\d: its process"):
        simfl.run(poison, out=tmp_path / "out")
    assert shots(tmp_path) == 2
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "failed"


def brief(*, client: list[Any] = (), server: list[Any] = (), **cluster: Any) -> dict[str, Any]:  # type: ignore[assignment]
    """Return a scenario whose clients keep nothing, and which is evaluated after round 4 of 7."""
    plain = scenario(server=[*server], **cluster)
    plain["client"]["optimizer"] |= {"regularizers": [], "modules": [*client]}
    plain["client"]["keep_state"] = False  # of modules that might have one
    plain["server"]["optimizer"] |= {"modules": ["adam", *server]}
    plain["cluster"].pop("chunk_size")
    return plain | {"rounds": 7, "evaluation": {"every": 4}}


@pytest.fixture(scope="module")
def undisturbed_brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return numbers(brief(), tmp_path_factory.mktemp("brief") / "out", "inline")


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SeriesRunner, int]]:
    """Have rounds run in series of two; return the list of them, with their numbers of rounds.

    Each actor has one chunk, on a busy machine, too.
    """
    monkeypatch.setattr("simfl.engine.chunks.WORTH_A_CALL_S", 1000.0)
    monkeypatch.setattr(simfl.cluster.series, "BRIEF_S", 1000.0)
    monkeypatch.setattr(simfl.cluster.series, "LONG_S", 100_000.0)
    monkeypatch.setattr(simfl.cluster.series, "MOST_ROUNDS", 2)
    run, found = SeriesRunner.run, list[tuple[SeriesRunner, int]]()

    def note(self: SeriesRunner, *arguments: Any) -> Any:
        done = run(self, *arguments)
        found.append((self, len(done)))
        return done

    monkeypatch.setattr(SeriesRunner, "run", note)
    return found


@pytest.mark.parametrize(
    ("side", "round", "lengths", "again"),
    [
        (None, 0, [0, 1, 2, 2, 1], []),
        ("client", 6, [0, 1, 2, 0], [5, 6]),
        pytest.param("client", 7, [0, 1, 2, 2, 0], [7], marks=pytest.mark.slow),
        pytest.param("server", 3, [0, 1, 0], [3, 4], marks=pytest.mark.slow),
        ("server", 7, [0, 1, 2, 2, 0], [7]),
    ],
)
def test_a_series_in_which_an_actor_dies_is_run_round_by_round(
    side: str | None,
    round: int,
    lengths: list[int],
    again: list[int],
    tmp_path: Path,
    ray_cluster: None,
    undisturbed_brief: tuple[Any, ...],
    series: list[tuple[SeriesRunner, int]],
) -> None:
    kills: Any = {}
    if side is not None:
        kills[side] = [killer(tmp_path, client=3 if side == "client" else -1, round=round)]
    result = simfl.run(brief(**kills), out=tmp_path / "out")
    assert numbers_of(result) == undisturbed_brief
    assert shots(tmp_path) == len(kills)
    assert [record["round"] for record in result.history if record["retries"]] == again
    assert [length for _, length in series][: len(lengths)] == lengths


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "server"])
def test_an_actor_that_dies_between_two_series_is_put_back(
    side: str,
    tmp_path: Path,
    ray_cluster: None,
    undisturbed_brief: tuple[Any, ...],
    series: list[tuple[SeriesRunner, int]],
) -> None:
    """Round 4 is evaluated, and so the next series has not begun when it is recorded."""

    def kill(record: RoundRecord) -> None:
        runner, _ = series[-1]
        if record["round"] == 4:
            of_clients = runner._pool.workers[0].actor
            replace_processes([of_clients if side == "client" else runner._server.actor])

    result = simfl.run(brief(), out=tmp_path / "out", callbacks=[kill])
    assert numbers_of(result) == undisturbed_brief
    assert [length for _, length in series][:4] == [0, 1, 2, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "client"), [("client", 3), ("server", -1)])
def test_a_series_in_which_an_actor_stands_still_is_called_off(
    side: str,
    client: int,
    tmp_path: Path,
    ray_cluster: None,
    undisturbed_brief: tuple[Any, ...],
    series: list[tuple[SeriesRunner, int]],
) -> None:
    stop: Any = {side: [killer(tmp_path, client=client, round=3, signal=int(signal.SIGSTOP))]}
    disturbed = brief(**stop, stall_limit_s=4.0, max_retries=100)
    assert numbers(disturbed, tmp_path / "out") == undisturbed_brief
    assert shots(tmp_path) == 1
    assert [length for _, length in series][:3] == [0, 1, 0]


def test_a_series_whose_actors_cannot_connect_is_run_round_by_round(
    tmp_path: Path,
    ray_cluster: None,
    undisturbed_brief: tuple[Any, ...],
    series: list[tuple[SeriesRunner, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As behind a firewall. The next attempts come after ever more rounds."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()
    monkeypatch.setattr(RemoteServer, "address", lambda self: closed)
    assert numbers(brief(), tmp_path / "out") == undisturbed_brief
    assert [length for _, length in series] == [0] * 7
    assert series[0][0]._num_failed == 3


def test_an_error_in_a_series_ends_the_run_in_its_round(
    tmp_path: Path, ray_cluster: None, series: list[tuple[SeriesRunner, int]]
) -> None:
    failing = brief(client=[["fail-at", {"client": 3, "round": 3}]])
    with pytest.raises(
        RunError, match="client 3 failed in round 3: ValueError: failed as it was told"
    ):
        simfl.run(failing, out=tmp_path / "out")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    assert [length for _, length in series] == [0, 1, 0]


def test_round_by_round_a_series_has_one_round(
    tmp_path: Path,
    ray_cluster: None,
    undisturbed_brief: tuple[Any, ...],
    series: list[tuple[SeriesRunner, int]],
) -> None:
    """So that whoever leaves has the weights of the last round that was yielded."""
    with simfl.run_by_round(brief(), out=tmp_path / "out") as run:
        records = [RoundRecord.parse(record).reproducible for record in run.rounds()]
    assert records == undisturbed_brief[1]
    assert [length for _, length in series] == [0, 1, 1, 1, 1, 1, 1]


@pytest.mark.slow
def test_actors_that_die_with_nothing_to_do_are_put_back_before_they_work_again(
    tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    """Between two rounds all actors die, and are alive again by the time of the next call."""
    loaded = simfl.load_scenario(scenario())
    simulation, checkpoints = build(loaded), Checkpoints(loaded, tmp_path, notify=print)
    engine = make_engine(simulation, "ray", address=None, location=checkpoints.location)
    assert isinstance(engine, RayEngine)
    records = []
    with closing(engine):
        engine.open()
        for record, _, following in run_rounds(
            simulation, engine, checkpoints, handle=engine.start()
        ):
            records.append(RoundRecord.parse(record).reproducible)
            handle = following
            if record["round"] < 3:
                replace_processes(
                    [engine._server.actor, *(worker.actor for worker in engine._pool.workers)]
                )
        weights = engine.get_weights(handle).to_numpy()
    assert ({name: array.tobytes() for name, array in weights.items()}, records) == undisturbed


def replace_processes(actors: list[Any]) -> None:
    """Kill actors, and wait until Ray has started them again."""
    former = [process_id(actor) for actor in actors]
    for pid in former:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    for actor, pid in zip(actors, former, strict=True):
        while process_id(actor) in (None, pid):
            time.sleep(0.1)


def process_id(actor: Any) -> int | None:
    """Return the id of the actor's process, None while it has none."""
    try:
        pid: int = ray.get(actor.process_id.remote())
        return pid
    except ray.exceptions.RayActorError:
        return None
