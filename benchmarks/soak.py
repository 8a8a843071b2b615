"""The long soak: actors are killed at random moments, and the bits stay what they were.

Runs one scenario three times: in this process, on Ray, and on Ray while client actors and the
server's actor are killed with SIGKILL. Compares the hash of the final weights and that of
``metrics.jsonl`` without its seconds; ends with PASS and 0, or FAIL and 1.

    python benchmarks/soak.py
    python benchmarks/soak.py --rounds 10 --kills 10 --seed 3
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from processes import Process, kill, running_actors

import simfl
from simfl.record import RoundRecord

_POLL_S = 0.02


def scenario(*, rounds: int, actors: int, max_retries: int) -> dict[str, Any]:
    """SCAFFOLD with half of the clients a round, kept momentum, noise, and Adam on the server.

    A client's state has 39,050 numbers twice, enough to be stored in the object store.
    """
    noise = ["gaussian-noise", {"std": 0.01}]
    rate = ["exponential", {"base": 0.1, "factor": 0.999, "unit": "step"}]
    return {
        "rounds": rounds,
        "seed": 1,
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "dirichlet", "clients": 20, "alpha": 0.5},
        },
        "model": {"kind": "mlp", "hidden": [512]},
        "client": {
            "per_round": 10,
            "batch_size": 8,
            "epochs": 5,
            "optimizer": {"lrate": rate, "modules": ["scaffold-client", noise, "momentum"]},
        },
        "server": {"optimizer": {"lrate": 0.01, "modules": ["scaffold-server", "adam"]}},
        "checkpoint": {"every": 5},
        "cluster": {"actors": actors, "chunk_size": 2, "max_retries": max_retries},
    }


@dataclass(frozen=True)
class Outcome:
    """What a run has brought."""

    weights: str
    """sha256 of ``weights.safetensors``."""
    metrics: str
    """sha256 of ``metrics.jsonl`` without its seconds."""
    wall_s: float
    """Of the whole run, the start of Ray included."""
    round_s: float
    """The mean over the rounds."""


@dataclass
class Killer:
    """Kills actors of this process's cluster at random moments, which the seed decides.

    Each kill belongs to a round and to a moment in it; the moment counts from the end of the round
    before, so that what it meets is up to the machine.
    """

    out: Path
    rounds: int
    kills: int
    round_s: float
    """About how long a round takes."""
    seed: int
    log: list[str] = field(default_factory=list)
    is_over: bool = False

    def run(self) -> None:
        """Kill until all kills are done or the run is over."""
        rng = np.random.default_rng(self.seed)
        for round in np.sort(rng.integers(1, self.rounds, self.kills)).tolist():
            self._wait_for_round(round)
            time.sleep(rng.uniform(0, self.round_s))
            victim = self._shoot(rng)
            if victim is None:
                return
            self.log.append(f"round {round:2d}: {victim.title}")

    def _wait_for_round(self, round: int) -> None:
        """Wait until the round before is done; before the first, until the actors have started."""
        while not self.is_over and _count_lines(self.out / "metrics.jsonl") < round - 1:
            time.sleep(_POLL_S)

    def _shoot(self, rng: np.random.Generator) -> Process | None:
        """Kill an actor, the server one time in three; wait for one where none is up."""
        wanted = "ServerActor" if rng.random() < 1 / 3 else "ClientActor"
        while not self.is_over:
            candidates = running_actors()[wanted]
            if candidates and kill(victim := candidates[rng.integers(len(candidates))]):
                return victim
            time.sleep(_POLL_S)
        return None


def train(plain: dict[str, Any], out: Path, backend: Literal["inline", "ray"]) -> Outcome:
    """Run a scenario, and hash what it has brought."""
    began = time.perf_counter()
    result = simfl.run(plain, out=out, backend=backend)
    wall_s = time.perf_counter() - began
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    numbers = [RoundRecord.parse(line).reproducible for line in lines]
    return Outcome(
        weights=hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest(),
        metrics=hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest(),
        wall_s=wall_s,
        round_s=float(np.mean([record["seconds"] for record in result.history])),
    )


def train_under_fire(plain: dict[str, Any], killer: Killer) -> Outcome:
    """Run on Ray while actors are killed."""
    thread = threading.Thread(target=killer.run, daemon=True)
    thread.start()
    try:
        return train(plain, killer.out, "ray")
    finally:
        killer.is_over = True
        thread.join()


def main(
    rounds: Annotated[int, typer.Option(min=2, help="How many rounds each run has.")] = 30,
    kills: Annotated[int, typer.Option(min=0, help="How many processes are killed.")] = 30,
    actors: Annotated[int, typer.Option(min=1, help="Client actors.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the kills.")] = 0,
) -> None:
    """Kill actors at random moments, and see that the bits stay the same."""
    # The same chunk may be hit more often than the default of 3 allows, by chance and not poison.
    plain = scenario(rounds=rounds, actors=actors, max_retries=max(kills, 3))
    with tempfile.TemporaryDirectory(prefix="simfl-soak-") as name:
        folder = Path(name)
        inline = train(plain, folder / "inline", "inline")
        _print("inline", inline)
        calm = train(plain, folder / "calm", "ray")
        _print("Ray, no kills", calm)
        killer = Killer(folder / "killed", rounds, kills, calm.round_s, seed)
        killed = train_under_fire(plain, killer)
        _print(f"Ray, {len(killer.log)} kills", killed)
    print("\n".join(killer.log))
    sys.exit(_verdict(inline, calm, killed, missing=kills - len(killer.log)))


def _verdict(inline: Outcome, calm: Outcome, killed: Outcome, *, missing: int) -> int:
    same = {(run.weights, run.metrics) for run in (inline, calm, killed)}
    if missing:
        print(f"FAIL: the run was over before {missing} of the kills")
    elif len(same) > 1:
        print("FAIL: the bits differ")
    else:
        print("PASS: the same weights and metrics, bit for bit")
    return 1 if missing or len(same) > 1 else 0


def _print(what: str, run: Outcome) -> None:
    print(
        f"{what:<16} weights {run.weights[:12]}  metrics {run.metrics[:12]}  "
        f"{run.wall_s:6.1f} s in all, {run.round_s:.3f} s a round",
        flush=True,
    )


def _count_lines(path: Path) -> int:
    """Return how many rounds are done; -1 while actors are being started."""
    return path.read_bytes().count(b"\n") if path.exists() else -1


if __name__ == "__main__":
    typer.run(main)
