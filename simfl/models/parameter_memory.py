"""The memory of a module's trained parameters, and of their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from simfl.models.layers import has_hook, own_method
from simfl.vector import Vector, widened

_KNOWN: Final = ("torch.nn.modules.", "simfl.models.", "torchvision.models.")
"""Where the layers are defined that are known to leave their parameters as they are."""

_ALIGNED: Final = 64
"""Bytes, as torch aligns its own memory on a CPU: matrix products may round by it."""


class ParameterMemory:
    """Where trained parameters are: in their own memory, or where they have been put for a while.

    A training may begin with parameters that read the given weights in place (``lend``). The first
    step writes to their own memory, or to that of the update, if it is not used any more.

    torch knows no read-only memory, and the given weights may be on such, or others may read them.
    So nothing is lent to modules that might write to their parameters: those with layers of others,
    hooks, or parameters that share memory.

    Args:
        module: to which the parameters belong.
        parameters: the trained ones, by name.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._own = {name: parameter.data for name, parameter in parameters.items()}
        self.is_left_alone: Final = _leaves_parameters_alone(module)
        """Whether calls of the module are known not to write to parameters, nor to share them."""
        self._initial = set(parameters)
        """Those whose own memory still holds what they were built with."""
        self._lent: dict[str, Tensor] = {}
        self.taken: dict[str, Tensor] = {}
        """The parameters in an update's memory, which nothing else uses."""

    def lend(self, weights: Vector) -> frozenset[str]:
        """Have parameters read these weights in place; return the names of those that can."""
        self.restore()
        if self.is_left_alone:
            self._lent = {
                name: weights[name]
                for name, own in self._own.items()
                if _replaces(weights[name], own)
            }
            self._point_at(self._lent)
        return frozenset(self._lent)

    def step(self, updates: Vector, scale: float, *, take: bool) -> None:
        """Add scale times the updates, with one rounding.

        Args:
            updates: of all parameters.
            scale: the factor.
            take: whether the memory of updates may become that of the parameters.
        """
        written = {}
        for name, start in self._lent.items():
            update, own = updates[name], self._own[name]
            takes = take and _replaces(update, own)
            written[name] = torch.add(start, update, alpha=scale, out=update if takes else own)
            if takes:
                self._take(name, update)
        self._point_at(written)
        self._lent = {}
        others = [name for name in self._parameters if name not in written]
        if others:
            theirs: list[Tensor] = [self._parameters[name] for name in others]
            torch._foreach_add_(theirs, [updates[name] for name in others], alpha=scale)

    def _take(self, name: str, update: Tensor) -> None:
        """Note that a parameter is in an update's memory, and release what it was built in.

        Fresh memory of a large tensor takes no pages until something is written to it.
        """
        self.taken[name] = update
        if name in self._initial:
            self._initial.remove(name)
            self._own[name] = torch.empty_like(update)

    def restore(self) -> None:
        """Return the parameters to their own memory, whatever it holds."""
        self._point_at({name: self._own[name] for name in (*self._lent, *self.taken)})
        self._lent, self.taken = {}, {}

    def _point_at(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._parameters[name].data = tensor


def with_own_memory(
    gradients: Iterable[Tensor | None], parameters: Iterable[Tensor]
) -> list[Tensor]:
    """Replace missing gradients with zeros; copy those that are expanded or share memory.

    Those of convolutions with channels last are laid out as the weights are. Float16 and bfloat16
    become float32.
    """
    wide = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        elif gradient.dim() == 4 and parameter.is_contiguous():
            gradient = gradient.contiguous()
        wide.append(widened(gradient))
    # Each is then in another memory, from its beginning on: no need for a closer look.
    are_apart = len({one.data_ptr() for one in wide}) == len(wide)
    if are_apart and all(one.is_contiguous() and not one.storage_offset() for one in wide):
        return wide
    seen: set[int] = set()
    owned = []
    for one in wide:
        storage = one.untyped_storage()
        at = storage.data_ptr()
        is_owned = at not in seen and storage.nbytes() >= one.nbytes
        seen.add(at)
        owned.append(one if is_owned else one.clone())
    return owned


def _replaces(tensor: Tensor, own: Tensor) -> bool:
    """Return whether results have the same bits if a tensor stands for a parameter's own."""
    return (
        tensor.dtype == own.dtype
        and tensor.device == own.device
        and tensor.shape == own.shape
        and tensor.stride() == own.stride()
        and tensor.data_ptr() % _ALIGNED == 0
    )


def _leaves_parameters_alone(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    is_apart = len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
    return is_apart and all(map(_is_known, module.modules()))


def _is_known(layer: nn.Module) -> bool:
    """Return whether a call of a layer is known not to write to its parameters."""
    renormalizes = getattr(layer, "max_norm", None) is not None  # embeddings
    is_known = type(layer).__module__.startswith(_KNOWN) and own_method(layer) is None
    return is_known and not has_hook(layer) and not renormalizes
