"""Every registered transform keeps the contract; what breaks it is found out."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from simfl.testing import ContractError, check_transform
from simfl.transforms import (
    Cast,
    Clip,
    Codec,
    Message,
    State,
    TopK,
    UpdateContext,
    UpdateTransform,
)
from simfl.transforms.trial import stack_fault
from simfl.vector import Vector

REGISTERED = [
    cls() for cls in UpdateTransform.registry.values() if cls.__module__.startswith("simfl.")
]

Applied = tuple[Vector, State]


@pytest.mark.parametrize(
    "transform",
    [
        *REGISTERED,
        Clip(max_norm=0.1),
        Cast(dtype="bfloat16", feedback=True),
        TopK(count=7),
        TopK(fraction=0.5, feedback=False),
    ],
    ids=str,
)
def test_every_transform_keeps_the_contract(transform: UpdateTransform) -> None:
    check_transform(transform)


# -- of one's own ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise(UpdateTransform):
    """Draws from each client's own generator."""

    name: ClassVar[str] = "noise-of-a-test"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> Applied:
        rows = update.unstack() if update.stacked else [update]
        pairs = zip(rows, context.generators(), strict=True)
        noisy = [one.map(lambda t, g=g: t + torch.randn(t.shape, generator=g)) for one, g in pairs]
        return (Vector.stack(noisy) if update.stacked else noisy[0]), state


@dataclass(frozen=True)
class Lengths(Codec):
    """Sends the positive numbers: rows of different lengths, padded to the longest."""

    name: ClassVar[str] = "lengths-of-a-test"

    def encode(self, flat_CD: Tensor, context: UpdateContext) -> Message:
        rows = [row.clamp(min=0.0).to_sparse() for row in flat_CD]
        longest = max(len(row.values()) for row in rows)
        parts = [(row.indices()[0], row.values()) for row in rows]
        grow = torch.nn.functional.pad
        return Message(
            {
                "indices": torch.stack([grow(i, (0, longest - len(i))) for i, _ in parts]),
                "values": torch.stack([grow(v, (0, longest - len(v))) for _, v in parts]),
            },
            sizes=tuple(12 * len(v) for _, v in parts),
        )

    def decode(self, message: Message, context: UpdateContext) -> Tensor:
        indices, values = message.tensors["indices"], message.tensors["values"]
        size = sum(torch.Size(shape).numel() for shape in context.shapes.values())
        return torch.zeros(len(values), size, dtype=values.dtype).scatter_add(1, indices, values)


@pytest.mark.parametrize("transform", [Noise(), Lengths()], ids=str)
def test_ones_own_transform_keeps_the_contract(transform: UpdateTransform) -> None:
    check_transform(transform)


# -- what breaks it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared(UpdateTransform):
    name: ClassVar[str] = "broken-clips-a-stack-as-one"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> Applied:
        norm = float(torch.stack([t.norm() for t in update.tensors]).norm())
        return update * min(1.0 / norm, 1.0), state


@dataclass(frozen=True)
class Writes(UpdateTransform):
    name: ClassVar[str] = "broken-writes-to-update"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> Applied:
        return update.mul_(0.5), state


@dataclass(frozen=True)
class Remembers(UpdateTransform):
    name: ClassVar[str] = "broken-keeps-memory"

    def init(self, like: Vector) -> State:
        return {"last": like.zeros_like()}

    def apply(self, update: Vector, state: State, context: UpdateContext) -> Applied:
        return update - state["last"], {"last": update}


@dataclass(frozen=True)
class Silent(Remembers):
    name: ClassVar[str] = "broken-says-it-keeps-nothing"
    keeps_state = False  # type: ignore[assignment]


@dataclass(frozen=True)
class Widens(UpdateTransform):
    name: ClassVar[str] = "broken-widens-update"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> Applied:
        return update.map(Tensor.double), state


@dataclass(frozen=True)
class Unseeded(UpdateTransform):
    name: ClassVar[str] = "broken-unseeded"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> Applied:
        return update.map(lambda t: t + torch.rand_like(t)), state


@dataclass(frozen=True)
class Overstates(Cast):
    name: ClassVar[str] = "broken-overstates"

    def encode(self, flat_CD: Tensor, context: UpdateContext) -> Message:
        return replace(super().encode(flat_CD, context), sizes=(999,) * len(flat_CD))


@dataclass(frozen=True)
class Loses(TopK):
    name: ClassVar[str] = "broken-loses"

    def transmit(
        self, update: Vector, state: State, context: UpdateContext
    ) -> tuple[Vector, State, tuple[int, ...]]:
        sent, new, size = super().transmit(update, state, context)
        return sent, {"residual": new["residual"] * 0.5}, size


BROKEN: list[tuple[UpdateTransform, str]] = [
    (Shared(), "treat a stack of clients as it does each client: row 0 of a stack"),
    (Writes(), "leave its arguments alone"),
    (Remembers(), "share no memory between update and state"),
    (Silent(), r"have states .*: it keeps \['last'\], but keeps_state is False"),
    (Widens(), "keep names, order, shapes and dtypes"),
    (Unseeded(), "depend on its arguments alone"),
    (Overstates(), "send messages that are what they say: a message of 32 bytes says it has 999"),
    (Loses(), "send or keep all of an update"),
]


@pytest.mark.parametrize(("transform", "clause"), BROKEN, ids=[str(one) for one, _ in BROKEN])
def test_what_breaks_the_contract_is_named(transform: UpdateTransform, clause: str) -> None:
    with pytest.raises(ContractError, match=f"{type(transform).__name__} must {clause}"):
        check_transform(transform)


def test_before_a_run_only_stacks_are_tried() -> None:
    assert stack_fault(Unseeded()) is not None
    assert "row 0 of a stack" in (stack_fault(Shared()) or "")
    assert stack_fault(TopK()) is None
    assert stack_fault(Remembers()) is None


def test_a_transform_that_returns_another_form_is_refused_in_a_round() -> None:
    assert "'broken-widens-update' has returned an update of other" in (stack_fault(Widens()) or "")
