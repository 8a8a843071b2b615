"""Batches of examples that stay on the device, and of moved ones; examples evaluated a second."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from workloads import find_workload

import simfl
from on_gpu.place import Place, best_seconds
from simfl.client import ClientHost
from simfl.client.batches import ReadBatch, Rows, moving_reader, resident_reader
from simfl.messages import Broadcast, EvaluationChunk
from simfl.models import Batch
from simfl.simulation import build

__all__ = ["evaluate", "read"]

_BATCHES = 50
_STACKS = (1, 50)


def read(place: Place, workloads: tuple[str, ...] = ("W1", "W1-bytes")) -> None:
    """Read batches of 10 for one client and for a stack: from the device, moved, and pageable."""
    for name in workloads:
        work = find_workload(name, scale=place.scale)
        examples = build(simfl.load_scenario(work.scenario(rounds=1))).dataset.train
        readers: dict[str, ReadBatch] = {
            "resident": resident_reader(examples, device=place.device),
            "moved": moving_reader(examples, device=place.device),
        }
        if place.is_cuda:
            readers["moved, pageable"] = _pageable(moving_reader(examples, device="cpu"))
        for stack in _STACKS:
            rows = np.random.default_rng(0).integers(len(examples.targets), size=(stack, 10))
            for kind, reader in readers.items():
                seconds = _time_reads(place, reader, rows if stack > 1 else rows[0])
                place.put(f"{name}, {kind}, stack {stack}", {"seconds_a_batch": seconds})
                label = f"{name}, {kind}, {stack} x 10 examples"
                place.say(f"{label:<44}{seconds * 1e6:>9.1f} us a batch")


def _time_reads(place: Place, reader: ReadBatch, rows: Rows) -> float:
    def call() -> None:
        for _ in range(_BATCHES):
            reader(rows)

    return best_seconds(place, call, within=0.5, most=5) / _BATCHES


def _pageable(reader: ReadBatch) -> ReadBatch:
    """Return what moves batches as a plain loop does, from memory that is not pinned."""

    def read(rows: Rows) -> Batch:
        batch = reader(rows)
        assert isinstance(batch.inputs, torch.Tensor), "the workloads have one input"
        return Batch(batch.inputs.to("cuda"), batch.targets.to("cuda"))

    return read


def evaluate(place: Place, sizes: tuple[int, ...] = (128, 1024)) -> None:
    """Evaluate W1's model on a test split by simfl, and by a bare loop."""
    work = find_workload("W1", scale=place.scale)
    plain: dict[str, Any] = work.scenario(rounds=1)
    plain["data"] |= {"test_fraction": 0.2}
    plain["evaluation"] = {"every": 1}
    simulation = build(simfl.load_scenario(plain))
    test = simulation.dataset.test
    assert test is not None, "the scenario asks for one"
    model = simulation.server.build_model()
    broadcast = Broadcast(1, model.get_weights(), {})
    module = copy.deepcopy(model.module).to(place.device).eval()
    inputs, targets = (torch.tensor(a, device=place.device) for a in (test.inputs, test.targets))
    for size in sizes:
        recipe = replace(simulation.client, evaluation_batch_size=size)
        device = "cuda:0" if place.is_cuda else "cpu"
        host = ClientHost(recipe, simulation.dataset, device=device)
        chunk = EvaluationChunk("test", (tuple(range(-(-len(test) // size))),))
        evaluated = partial(host.evaluate_chunk, chunk, broadcast)
        ours = best_seconds(place, evaluated, within=2.0)
        bare = partial(_evaluate_bare, module, inputs, targets, size)
        theirs = best_seconds(place, bare, within=2.0)
        sums = [batch["loss"] for batch in evaluated()]
        apart = abs(sum(total for total, _ in sums) / bare() - 1)
        rates = {"simfl": len(test) / ours, "bare": len(test) / theirs}
        place.put(f"batches of {size}", {"examples_a_second": rates, "losses_apart": apart})
        place.say(
            f"evaluation in batches of {size}: {rates['simfl']:,.0f} examples/s, a bare loop "
            f"{rates['bare']:,.0f}: simfl takes {ours / theirs:.2f} x; losses {apart:.1e} apart"
        )


@torch.no_grad()
def _evaluate_bare(module: nn.Module, inputs: Tensor, targets: Tensor, size: int) -> float:
    """Return the sum of losses; the right answers are counted, too, as simfl does by default."""
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    right = torch.zeros((), dtype=torch.int64, device=inputs.device)
    for start in range(0, len(targets), size):
        outputs, aims = module(inputs[start : start + size]), targets[start : start + size]
        loss += cross_entropy(outputs, aims, reduction="sum")
        right += (outputs.argmax(1) == aims).sum()
    right.item()
    return loss.item()
