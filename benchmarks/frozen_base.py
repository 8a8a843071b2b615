"""What a base that is not trained costs in memory: a Llama with LoRA, by the number of actors.

PSS of all processes of a run on Ray, by what they are: at its peak, and in the midst of rounds; and
how often each process builds the model. With ``--base files`` the base is mapped from safetensors,
with ``--base config`` it is drawn by the seed. Runs with other numbers of actors are compared to
the first: what each further actor takes, next to the size of the base.

    python benchmarks/frozen_base.py --actors 1,2,3,4
    python benchmarks/frozen_base.py --base files --actors 1,2,3,4
    python benchmarks/frozen_base.py --actors 2 --layers 30
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from memory import MemoryWatch, memory_by_role

Base = Literal["config", "files"]
VOCABULARY = 32_000
TOKENS = 32
BUILDS = "SIMFL_BENCHMARK_BUILDS"
"""The environment's name of the file to which each process adds a line for each build."""


def llama(layers: int) -> dict[str, Any]:
    """77 million weights with 10 layers."""
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_hidden_layers": layers,
    }


def tokens(num: int = 64) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return inputs and the tokens that follow, for the scenario."""
    drawn = np.random.default_rng(0).integers(0, VOCABULARY, (num, TOKENS + 1))
    return drawn[:, :-1], drawn[:, 1:]


def scenario(*, actors: int, layers: int, files: Path | None) -> dict[str, Any]:
    """8 clients a round, with adapters of rank 8 on two projections."""
    base = {"config": llama(layers)} if files is None else {"path": str(files)}
    return {
        "rounds": 4,
        "plugins": ["frozen_base"],
        "search": [str(Path(__file__).parent)],
        "data": {
            "source": "python",
            "path": "frozen_base:tokens",
            "partition": {"kind": "iid", "clients": 8},
        },
        "model": {
            "kind": "huggingface",
            "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]},
            **base,
        },
        "client": {
            "per_round": 8,
            "batch_size": 2,
            "steps": 2,
            "optimizer": {"lrate": 0.01, "modules": ["adam"]},
        },
        "checkpoint": {"every": 0},
        "cluster": {"actors": actors, "dashboard": False},
    }


def main(
    actors: Annotated[str, typer.Option(help="Numbers of actors, one run each.")] = "1,2,3,4",
    base: Annotated[Base, typer.Option(help="Where the base comes from.")] = "config",
    layers: Annotated[int, typer.Option(min=1, help="Of the Llama.")] = 10,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure runs, each in a process of its own."""
    if one is not None:
        print(json.dumps(measure(int(actors), layers, Path(one) if base == "files" else None)))
        return
    with tempfile.TemporaryDirectory(prefix="simfl-base-") as folder:
        if base == "files":
            write_files(Path(folder), layers)
        counts = [int(count) for count in actors.split(",")]
        options = ["--base", base, "--layers", str(layers), "--one", folder]
        first: dict[str, Any] | None = None
        for count in counts:
            command = [sys.executable, __file__, *options, "--actors", str(count)]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(lines.strip().splitlines()[-1])
            tell(count, found)
            if first is None:
                first = found
                continue
            more = (sum(found["rounds"].values()) - sum(first["rounds"].values())) / 1e6
            each = more / (count - counts[0])
            print(f"  each further actor: {each:,.0f} MB, {each / found['base_mb']:.2f} bases")


def write_files(folder: Path, layers: int) -> None:
    """Save a model with random weights as safetensors."""
    import transformers

    entries = {key: value for key, value in llama(layers).items() if key != "model_type"}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**entries)).save_pretrained(folder)


def measure(actors: int, layers: int, files: Path | None) -> dict[str, Any]:
    """Run the scenario here, and return what its processes held, in bytes by role."""
    from simfl.scenario import load_scenario
    from simfl.simulation import open_run

    with tempfile.TemporaryDirectory(prefix="simfl-run-") as name:
        folder = Path(name)
        os.environ[BUILDS] = str(folder / "builds")
        changed = load_scenario(scenario(actors=actors, layers=layers, files=files))
        with MemoryWatch(folder) as watch, open_run(changed, folder / "run") as run:
            for _ in run.rounds():
                held = memory_by_role()
        ledger = run.result.summary["ledger"]
        builds = Counter((folder / "builds").read_text().split())
    return {
        "rounds": held,
        "peak": watch.peak.by_role,
        "base_mb": ledger["base_bytes"] / 8 / 1e6,
        "each": ledger["peak_memory_bytes"],
        "driver": builds.pop(str(os.getpid()), 0),
        "others": sorted(builds.values()),
    }


def tell(actors: int, found: dict[str, Any]) -> None:
    """Print the figures of a run, in megabytes."""
    print(f"{actors} actors, a base of {found['base_mb']:,.0f} MB")
    for what in ("peak", "rounds"):
        parts = {role: size / 1e6 for role, size in found[what].items() if size > 5e6}
        listed = ", ".join(f"{role} {size:,.0f}" for role, size in sorted(parts.items()))
        print(f"  {what}: {sum(found[what].values()) / 1e6:,.0f} MB of PSS: {listed}")
    each = ", ".join(f"{role} {size / 1e6:,.0f}" for role, size in found["each"].items() if size)
    print(f"  peak of a process: {each}")
    print(f"  builds: driver {found['driver']}, other processes {found['others']}", flush=True)


def _count_builds() -> None:
    """Add a line with the process id for each build, where the scenario's plug-ins are imported."""
    from simfl.models.huggingface import HuggingFaceModel

    build = HuggingFaceModel.build

    def counted(spec: HuggingFaceModel, shape: Any) -> Any:
        with open(os.environ[BUILDS], "a") as file:
            file.write(f"{os.getpid()}\n")
        return build(spec, shape)

    HuggingFaceModel.build = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    typer.run(main)
elif BUILDS in os.environ:
    _count_builds()
