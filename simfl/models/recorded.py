"""Whether the recorded graph of a module computes what the module does, and in any layout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, fx, nn

from simfl.models.model import Inputs, call_module, map_inputs
from simfl.vector import tensors_of

Form: TypeAlias = Callable[..., Any]
"""A module, or what computes the same."""

_NEAR: Final = 0.05
"""How far gradients may be apart, relative to their norms. Rounding may turn a unit of ReLU on or
off, which changes a few thousandths; a mistake changes everything."""


class CannotRecordError(Exception):
    """A module does something that its graph would not, or not in the same way."""


def twin_of(module: nn.Module) -> nn.Module:
    """Return a copy that has the same parameters, but buffers and attributes of its own."""
    return copy.deepcopy(module, {id(one): one for one in module.parameters()})


def calls_of(graph: fx.Graph) -> list[str]:
    """Return the calls of a graph, to compare."""
    return [
        f"{node.name} {node.op} {node.target} {node.args} {node.kwargs}" for node in graph.nodes
    ]


def require_alike(
    module: nn.Module, graph: fx.Graph, inputs: Inputs, *, may_draw: Callable[[fx.Node], bool]
) -> None:
    """Raise an error if what a graph computes depends on where its numbers are in memory.

    Random numbers are drawn in the order of their places. And where one node's result is a view of
    another's, it may be a copy in another layout, so that writing to one leaves the other alone.

    Args:
        module: which was recorded.
        graph: as it was recorded.
        inputs: like those that it will be called with.
        may_draw: whether a node may draw random numbers.

    Raises:
        CannotRecordError: if it does.
    """
    watched = _Watched(fx.GraphModule(twin_of(module), graph), may_draw)
    call_module(watched.run, map_inputs(inputs, lambda one: torch.rand(2, *one.shape[1:])))
    if any(view._version != version for view, version in watched.views):
        raise CannotRecordError("it writes to what it has a view of")


class _Watched(fx.Interpreter):
    """Runs a graph node by node."""

    def __init__(self, module: fx.GraphModule, may_draw: Callable[[fx.Node], bool]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._may_draw = may_draw
        self.views: list[tuple[Tensor, int]] = []
        """Results that share the memory of another one, and their version at first."""

    def run_node(self, n: fx.Node) -> Any:
        before = torch.get_rng_state()
        result = super().run_node(n)
        if not torch.equal(before, torch.get_rng_state()) and not self._may_draw(n):
            raise CannotRecordError("it draws random numbers")
        given = [self.env[one] for one in n.all_input_nodes]
        for one in given:
            if isinstance(one, Tensor) and isinstance(result, Tensor) and _is_view(result, one, n):
                self.views.append((result, result._version))
        return result


def _is_view(result: Tensor, source: Tensor, node: fx.Node) -> bool:
    """Return whether a result is in the memory of a source, of another shape or as a copy."""
    is_same = result is source and node.target not in ("contiguous", "to")
    return (
        not is_same and result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    )


def agree(module: nn.Module, graph: fx.Graph, inputs: Inputs) -> bool:
    """Return whether a module and its graph give the same for two batches, up to rounding."""
    for size in (2, 3):
        torch.manual_seed(size)
        made = map_inputs(inputs, lambda one: torch.rand(size, *one.shape[1:]))  # noqa: B023
        ours, theirs = twin_of(module), twin_of(module)
        found = _outcome(fx.GraphModule(ours, graph).forward, ours, made)
        if not _are_near(found, _outcome(theirs, theirs, made)):
            return False
    return True


def _outcome(form: Form, module: nn.Module, inputs: Inputs) -> list[list[Tensor | None]]:
    """Return outputs, gradients, and buffers afterwards."""
    torch.manual_seed(0)
    outputs = list(tensors_of(call_module(form, inputs)))
    sums = [(one.flatten() * torch.linspace(-1, 2, one.numel())).sum() for one in outputs]
    trained = [one for one in module.parameters() if one.requires_grad]
    gradients = torch.autograd.grad(torch.stack(sums).sum(), trained, allow_unused=True)
    return [[one.detach() for one in outputs], [*gradients], [*module.buffers()]]


def _are_near(found: list[list[Tensor | None]], expected: list[list[Tensor | None]]) -> bool:
    for ours, theirs in zip(found, expected, strict=True):
        least = 1e-4 * sum(_norm(one) for one in theirs if one is not None)
        for one, other in zip(ours, theirs, strict=True):
            if one is None or other is None:
                if one is not other:
                    return False
            elif one.shape != other.shape or not _norm(one - other) <= _NEAR * _norm(other) + least:
                return False
    return True


def _norm(values: Tensor) -> float:
    return float(values.float().norm())
