"""Fine-tuning a language model with LoRA on one GPU: simfl against a loop written with peft.

A model of Qwen2.5-0.5B's shape with random weights: nothing is downloaded. In each variant (plain,
gradient checkpointing, accumulated gradients, both) the two train the same client on the same
batches with Adam, in turns within this process. Losses must agree.

    python benchmarks/language_model.py
    python benchmarks/language_model.py --batch-size 16 --tokens 1024
    python benchmarks/language_model.py --tiny                            # on a CPU, in seconds

Memory is how far a turn's peak is above what was held when it began, and so without the model:
allocated bytes by torch's count on a GPU, the resident set on a CPU.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from run_simfl import SimflRun
from torch.nn import functional as F  # noqa: N812
from turns import RoundTime

import simfl
from simfl.client.batches import read_batch
from simfl.models import build_module
from simfl.simulation import Simulation, build

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "accumulate": {"accumulate": 4},
    "both": {"checkpointing": True, "accumulate": 4},
}
CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
"""Qwen2.5-0.5B: 494 million weights."""
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
LRATE, ADAM = 1e-3, {"beta_1": 0.9, "beta_2": 0.99, "eps": 1e-7}
_LEAST_PEAK = 1e7
"""In bytes; what an allocator of the CPU has kept from before hides smaller ones."""
_TOLERANCE = 1e-2
"""Relative, of the first round's losses: both round to bfloat16, in orders of their own."""


@dataclass(frozen=True)
class Case:
    """What the two train."""

    device: str
    config: dict[str, Any]
    dtype: str
    precision: str
    batch_size: int
    tokens: int
    steps: int
    checkpointing: bool = False
    accumulate: int = 1

    def scenario(self, rounds: int) -> dict[str, Any]:
        """Return simfl's scenario: one client, which takes ``steps`` steps in a round."""
        arguments = {
            "num": self.batch_size * self.steps,
            "tokens": self.tokens,
            "words": self.config["vocab_size"],
        }
        return {
            "rounds": rounds,
            "search": [str(Path(__file__).parent)],
            "data": {
                "source": "python",
                "path": "language_model:sentences",
                "arguments": arguments,
                "partition": {"kind": "iid", "clients": 1},
            },
            "model": {
                "kind": "huggingface",
                "config": self.config,
                "dtype": self.dtype,
                "lora": {"rank": 16, "alpha": 32, "targets": TARGETS},
                "gradient_checkpointing": self.checkpointing,
                "loss": ["cross-entropy", {"over": "tokens"}],
            },
            "client": {
                "steps": self.steps,
                "batch_size": self.batch_size,
                "accumulate": self.accumulate,
                "precision": self.precision,
                "stack": 1,
                "keep_state": False,
                "optimizer": {"lrate": LRATE, "modules": [["adam", ADAM]]},
            },
            "evaluation": {"every": 0},
            "cluster": {"actors": 1, "num_gpus": 1.0 if self.device == "cuda" else 0.0},
        }


class Turn(NamedTuple):
    """What a turn took."""

    seconds: float
    peak: int
    """Bytes above what was held when it began."""
    loss: float


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    batch_size: Annotated[int, typer.Option(min=4, help="Examples of a step.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Of each example.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="In a turn, which is a round.")] = 8,
    turns: Annotated[int, typer.Option(min=1, help="After one to warm up.")] = 3,
    dtype: Annotated[str, typer.Option(help="Of the base: bf16 or float32.")] = "bf16",
    precision: Annotated[str, typer.Option(help="bf16 (autocast) or float32.")] = "bf16",
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model on a CPU.")] = False,
) -> None:
    """Compare tokens a second and peak memory."""
    config = CONFIG
    if tiny:
        config = CONFIG | TINY
        device, tokens, steps = "cpu", min(tokens, 32), min(steps, 2)
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --tiny tries it out on a CPU")
    case = Case(device, config, dtype, precision, batch_size, tokens, steps)
    print(f"{'':<32}{'tokens/s':>10}{'peak MB':>10}{'simfl: speed':>24}{'memory':>8}{'loss':>10}")
    codes = [_compare(name, replace(case, **more), turns) for name, more in VARIANTS.items()]
    sys.exit(max(codes))


def sentences(num: int, tokens: int, words: int, seed: int) -> tuple[Any, Any]:
    """Return sentences in which each token is the one before plus a stride."""
    rng = np.random.default_rng(seed)
    start, stride = rng.integers(0, words, (num, 1)), rng.integers(1, 7, (num, 1))
    ids = (start + stride * np.arange(tokens + 1)) % words
    return ids[:, :-1], ids[:, 1:]


def _compare(name: str, case: Case, turns: int) -> int:
    """Print a line for each of the two; return the exit code, 1 if their losses are apart."""
    simulation = build(simfl.load_scenario(case.scenario(rounds=1 + turns)))
    with tempfile.TemporaryDirectory(prefix="simfl-bench-") as folder:
        plain = case.scenario(rounds=1 + turns)
        run = SimflRun(plain, Path(folder), backend="inline", build=lambda _: simulation)
        with closing(run):
            rounds = {"simfl": run.run_round, "peft": _bare(case, simulation).__next__}
            done: dict[str, list[Turn]] = {contestant: [] for contestant in rounds}
            for _ in range(1 + turns):
                for contestant, run_round in rounds.items():
                    done[contestant].append(_measured(run_round, case.device))
    gc.collect()
    return _tell(name, case, done)


def _tell(name: str, case: Case, done: dict[str, list[Turn]]) -> int:
    num_tokens = case.batch_size * case.tokens * case.steps
    ours, theirs = done["simfl"], done["peft"]
    speeds = [b.seconds / a.seconds for a, b in zip(ours[1:], theirs[1:], strict=True)]
    peaks = [statistics.median(turn.peak for turn in turns[1:]) for turns in (ours, theirs)]
    memory = f"{peaks[0] / peaks[1]:.2f} x" if min(peaks) > _LEAST_PEAK else "-"
    for contestant, turns in done.items():
        rate = num_tokens / statistics.median(turn.seconds for turn in turns[1:])
        peak = statistics.median(turn.peak for turn in turns[1:]) / 1e6
        ratio = f"{statistics.median(speeds):.2f} ({min(speeds):.2f} to {max(speeds):.2f}) x"
        shown = f"{ratio:>24}{memory:>8}" if contestant == "simfl" else " " * 32
        label = f"{name}, {contestant}"
        print(f"{label:<32}{rate:>10,.0f}{peak:>10,.1f}{shown}{turns[0].loss:>10.5f}", flush=True)
    if abs(ours[0].loss / theirs[0].loss - 1) > _TOLERANCE:
        print(f"FAIL: the losses of {name} are apart")
        return 1
    return 0


def _bare(case: Case, simulation: Simulation) -> Iterator[RoundTime]:
    """Train simfl's batches with transformers, peft and torch.optim; a round at a time."""
    model = _peft_model(case, simulation).to(case.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    data, seed = simulation.dataset, simulation.scenario.seed
    rows = data.train_rows(0)
    is_mixed = case.precision == "bf16"
    for round in itertools.count(1):
        batches = simulation.client.work.draw_batches(rows, seed=seed, round=round, client=0)
        betas = (ADAM["beta_1"], ADAM["beta_2"])
        optimizer = torch.optim.Adam(trained, lr=LRATE, betas=betas, eps=ADAM["eps"])
        began, total = time.perf_counter(), torch.zeros((), device=case.device)
        for rows_B in batches:
            inputs, targets, _ = read_batch(data.train, rows_B)
            count = targets.numel()
            assert isinstance(inputs, torch.Tensor), "sentences() returns token ids"
            inputs, targets = inputs.to(case.device), targets.to(case.device)
            for few, aims in zip(
                inputs.chunk(case.accumulate), targets.chunk(case.accumulate), strict=True
            ):
                with torch.autocast(case.device, torch.bfloat16, enabled=is_mixed):
                    logits = model(input_ids=few).logits
                losses = F.cross_entropy(
                    logits.float().flatten(0, 1), aims.flatten(), reduction="sum"
                )
                (losses / count).backward()
                total += losses.detach() / count
            optimizer.step()
            optimizer.zero_grad()
        yield RoundTime(time.perf_counter() - began, total.item() / len(batches))


def _peft_model(case: Case, simulation: Simulation) -> Any:
    """Return the model with simfl's initial weights."""
    import peft
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)  # peft's own
    entries = {name: value for name, value in case.config.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(case.config["model_type"], **entries)
    config.use_cache = False
    dtype = torch.bfloat16 if case.dtype == "bf16" else torch.float32
    base = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS)
    model = peft.get_peft_model(base, lora)
    client = simulation.client
    initial = build_module(client.spec, client.shape, seed=client.seed).state_dict()
    model.base_model.model.load_state_dict(initial)
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _measured(run_round: Callable[[], RoundTime], device: str) -> Turn:
    """Run a turn, and wait until the device is done."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        held = _resident("VmRSS")
    began = time.perf_counter()
    loss = run_round().loss
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")
    return Turn(seconds, peak - held, loss)


def _resident(name: str) -> int:
    """Return a number of bytes of this process by the kernel's name for it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(kilobytes)


if __name__ == "__main__":
    typer.run(main)
