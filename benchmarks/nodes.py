"""What crosses the link of a node in a round, with one client actor there and with three.

Two machines in namespaces, joined by a wire that counts: the driver and the server's actor on one,
all client actors on the other. Runs each number of actors for 1 and for 11 rounds; the difference
is ten rounds without the start. Takes root on Linux, with iproute2.

    python benchmarks/nodes.py
    python benchmarks/nodes.py --hidden 2048
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from machines import RayOnTwoMachines, why_there_are_none

ROUNDS = 10


def scenario(*, rounds: int, actors: int, hidden: int, per_round: int) -> dict[str, Any]:
    """FedAvg, whose clients keep nothing: weights go out, sums come back."""
    return {
        "rounds": rounds,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 2 * per_round}},
        "model": {"kind": "mlp", "hidden": [hidden, hidden]},
        "client": {"per_round": per_round, "batch_size": 16, "optimizer": {"lrate": 0.05}},
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
        "cluster": {"actors": actors},
    }


def num_weights(hidden: int) -> int:
    """Return the parameters of the model: 64 pixels, two hidden layers, ten digits."""
    return 65 * hidden + (hidden + 1) * hidden + (hidden + 1) * 10


def link_bytes(machines: RayOnTwoMachines, plain: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Run a scenario; return the bytes to the node and those from it."""
    name = f"{plain['cluster']['actors']}-{plain['rounds']}"
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plain))
    before = machines.wire.num_bytes()
    out = ["--out", folder / name, "--address", machines.address]
    output, _ = machines.simfl("run", path, *out).communicate()
    assert (folder / name / "weights.safetensors").exists(), output
    sent, received = machines.wire.num_bytes()
    return sent - before[0], received - before[1]


def main(hidden: int = 1024, per_round: int = 12) -> None:
    """Print the megabytes sent and received per round, next to the weights' size."""
    if reason := why_there_are_none():
        raise SystemExit(reason)
    weights = 4 * num_weights(hidden)
    print(f"weights: {weights / 1e6:.2f} MB; {per_round} clients a round")
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        machines = RayOnTwoMachines(Path(folder), head_cpus=0, node_cpus=3)
        for actors in (1, 3):
            runs = [
                scenario(rounds=rounds, actors=actors, hidden=hidden, per_round=per_round)
                for rounds in (1, 1 + ROUNDS)
            ]
            (out1, in1), (out2, in2) = (link_bytes(machines, r, Path(folder)) for r in runs)
            sent, received = (out2 - out1) / ROUNDS, (in2 - in1) / ROUNDS
            print(
                f"{actors} actors: {sent / 1e6:.2f} MB a round to the node, "
                f"{sent / weights:.2f} times the weights; {received / 1e6:.2f} MB from it, "
                f"{received / weights:.2f} times"
            )
        machines.end()


if __name__ == "__main__":
    typer.run(main)
