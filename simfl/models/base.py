"""One copy of a model's fixed weights on a machine, for all processes that have the model."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from simfl.models.module_weights import ModuleWeights
from simfl.vector import Vector

LEAST_BASE_BYTES: Final = 1 << 22
"""Fixed weights of fewer bytes are left to each process."""


def unshared_base(model: ModuleWeights) -> Vector:
    """Return the fixed parameters that each process has for itself, not copied.

    Those in files that are mapped, as safetensors are by transformers, are shared by the system.
    """
    parameters = dict(model.module.named_parameters())
    fixed = {name: value for name, value in model.fixed_weights.items() if name in parameters}
    mapped = _mapped_from_files() if fixed else _Mapped([])
    return Vector({name: value for name, value in fixed.items() if not mapped.holds(value)})


def borrow(module: nn.Module, base: Vector) -> None:
    """Let parameters of a module be these tensors, whose memory may be read-only.

    Args:
        module: has such parameters, whose own memory is released.
        base: values that are only read, by name.
    """
    for name, value in base.items():
        parameter = module.get_parameter(name)
        assert parameter.shape == value.shape, name
        parameter.requires_grad_(False).data = value


class _Mapped:
    """The addresses at which files are mapped into this process."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._ranges = sorted(ranges)

    def holds(self, tensor: Tensor) -> bool:
        address = tensor.data_ptr()
        index = bisect_right(self._ranges, (address, 1 << 63)) - 1
        return index >= 0 and address < self._ranges[index][1]


def _mapped_from_files() -> _Mapped:
    """Read Linux's table; elsewhere nothing is known to be mapped."""
    ranges = []
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            addresses, _, _, _, inode, *path = line.split(maxsplit=5)
            if inode != "0" and path:
                begin, _, end = addresses.partition("-")
                ranges.append((int(begin, 16), int(end, 16)))
    return _Mapped(ranges)
