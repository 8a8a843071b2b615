"""What CUDA graphs and torch.compile gain in a step of a stack, or of a client.

``simfl`` is simfl's own step with plain SGD; ``eager`` is vmap over grad_and_value, as simfl takes
it of models that are not batched by hand. All start from the same weights, on the same batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from bare.graphed import record
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from on_gpu.place import Place, best_seconds
from on_gpu.shapes import BATCH, SHAPES, Shape, Trained
from simfl.models import Batch, StackedModel, TorchModel
from simfl.vector import Vector

__all__ = ["VARIANTS", "Case", "Measured", "run"]

VARIANTS = (
    "simfl",
    "simfl, graph",
    "eager",
    "eager, graph",
    "benchmark",
    "compile",
    "compile, graph",
)
"""``benchmark``: eager, with cudnn.benchmark; ``graph``: replayed from a CUDA graph."""
_CASES = (("cnn-32", 8), ("784-200-10", 64), ("vit block", 8), ("cnn-32", 1), ("784-200-10", 1))
"""Shapes, and clients of a stack; the most telling first."""
_LRATE = 0.01
_COMPILE_S = 45.0
"""What compiling may take; with less time left it is not begun."""
_CHECKED_STEPS = 3

# C clients of a stack, B examples of a batch


@dataclass(frozen=True)
class Case:
    """A stack of clients of a shape, and its batch."""

    model: TorchModel
    start: dict[str, Tensor]
    """[C, ...] the weights that every variant starts from, equal for all clients."""
    inputs: Tensor
    """[C, B, ...]"""
    targets: Tensor
    """[C, B]"""

    def bare_step(self, weights: dict[str, Tensor], *, compiles: bool) -> Callable[[], None]:
        """Return what changes the weights [C, ...] in place by a step on the batch."""

        def loss(weights: dict[str, Tensor], inputs_B: Tensor, targets_B: Tensor) -> Tensor:
            outputs = functional_call(self.model.module, weights, (inputs_B,))
            return cross_entropy(outputs, targets_B)

        core = vmap(grad_and_value(loss), randomness="error")
        if compiles:
            torch._dynamo.reset()
            core = torch.compile(core, dynamic=False)

        def step() -> None:
            gradients, _ = core(weights, self.inputs, self.targets)
            torch._foreach_add_(list(weights.values()), list(gradients.values()), alpha=-_LRATE)

        return step

    def simfl_step(self) -> tuple[dict[str, Tensor], Callable[[], None]]:
        """Return the weights of simfl's model, of a stack or of one client, and its step."""
        first = Vector({name: tensor[0] for name, tensor in self.start.items()})
        batch, trained = (
            Batch(self.inputs, self.targets),
            StackedModel(self.model, len(self.inputs)),
        )
        trained.begin(first, len(self.inputs))
        live = trained.live_weights
        if len(self.inputs) == 1:
            batch, trained = Batch(self.inputs[0], self.targets[0]), self.model
            live = self.model.live_weights(self.model.trainable)

        @torch.enable_grad()
        def step() -> None:
            _, gradients = trained.compute_loss_and_gradients(batch)
            trained.apply_scaled_updates(gradients, -_LRATE)

        return dict(live.items()), step


class Measured(NamedTuple):
    """What was measured of a variant."""

    begin: float
    """Seconds until the first step is done, recorded or compiled."""
    seconds: float
    """Of a step of all clients."""
    ends: dict[str, Tensor]
    """The weights after some steps."""


def run(
    place: Place,
    cases: Sequence[tuple[str, int]] = _CASES,
    variants: Sequence[str] = VARIANTS,
) -> None:
    """Measure the variants that compile nothing of every case, then the others."""
    if not place.is_cuda:
        place.say("CUDA graphs and torch.compile are left out on a CPU")
        variants = [name for name in variants if name in ("simfl", "eager")]
    by_name = {shape.name: shape for shape in SHAPES}
    first: dict[str, Measured] = {}
    for compiles in (False, True):
        for name, whole in cases:
            stack = max(1, round(whole * place.scale))
            case = _case(by_name[name], stack, place.device)
            for variant in variants:
                if variant.startswith("compile") is compiles:
                    _tell(place, f"{name}, stack {stack}", variant, case, first)


def _case(shape: Shape, stack: int, device: str) -> Case:
    model = Trained.of(shape, clients=1).recipe.build_model(device=device)
    model.enter_training()
    weights = model.get_weights(trainable=True)
    start = {name: weight.expand(stack, *weight.shape).clone() for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(stack, BATCH, *shape.inputs, generator=generator)
    targets = torch.randint(10, (stack, BATCH), generator=generator)
    return Case(model, start, inputs.to(device), targets.to(device))


def _tell(place: Place, label: str, variant: str, case: Case, first: dict[str, Measured]) -> None:
    """Measure a variant, and say what it gains over the first one."""
    if place.left < (_COMPILE_S if variant.startswith("compile") else 5.0):
        place.say(f"{label}, {variant}: left out, {max(0.0, place.left):.0f} s are left")
        return
    try:
        found = _measure(place, variant, case)
    except Exception as error:  # whatever a compiler raises
        line = (str(error).splitlines() or [""])[0]
        place.say(f"{label}, {variant}: {type(error).__name__}: {line}")
        place.put(f"{label}, {variant}", {"error": str(error)[:2000]})
        return
    best = first.setdefault(label, found)
    gain, apart = best.seconds / found.seconds, _apart(found.ends, best.ends)
    figures = {"seconds": found.seconds, "begin_seconds": found.begin, "gain": gain, "apart": apart}
    place.put(f"{label}, {variant}", figures)
    place.say(
        f"{label + ', ' + variant:<48}{found.seconds * 1e6:>9.0f} us  {gain:.2f} x, weights "
        f"{apart:.1e} apart, first step after {found.begin:.1f} s"
    )


def _measure(place: Place, variant: str, case: Case) -> Measured:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = variant == "benchmark"
    try:
        with torch.no_grad():
            began = time.perf_counter()
            weights, step = _prepare(variant, case)
            step()
            place.synchronize()
            begin = time.perf_counter() - began
            for name, tensor in weights.items():
                tensor.copy_(case.start[name].view_as(tensor))
            _repeat(step, _CHECKED_STEPS)
            ends = {name: tensor.clone() for name, tensor in weights.items()}
            seconds = best_seconds(place, partial(_repeat, step, 10), within=1.0) / 10
    finally:
        torch.backends.cudnn.benchmark = before
    return Measured(begin, seconds, ends)


def _prepare(variant: str, case: Case) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Return the weights, and what changes them by a step."""
    if variant.startswith("simfl"):
        weights, step = case.simfl_step()
    else:
        weights = {name: tensor.clone() for name, tensor in case.start.items()}
        step = case.bare_step(weights, compiles=variant.startswith("compile"))
    return weights, record(step, case.inputs.device) if variant.endswith("graph") else step


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _apart(ends: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Return how far weights are apart, relative to the largest of each tensor."""
    return max(
        float((ends[name] - other).abs().max() / other.abs().max().clamp(min=1e-30))
        for name, other in others.items()
    )
