"""Packed states: what many clients keep in one array of bytes, a row for each.

A row is the number of steps and the memory of all tensors, one after another, at places that a
``Layout`` says. Clients of one model and one optimizer have one layout, so that the rows of a stack
are written and read with one operation per tensor, from however many arrays they come.

Shapes: K clients in an array, C clients of a stack, R those of them that have kept a state.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from simfl.states.kept import Kept, KeptState
from simfl.states.stacked import KeptRow, StackedStates
from simfl.vector import Vector, map_leaves
from simfl.vector.memory import Bytes

_ALIGNMENT: Final = 64
"""Of rows, in bytes: that of the object store's arrays."""
_STEPS: Final = 8
"""The bytes of the number of steps, with which a row begins."""
_PLAIN: Final = (type(None), bool, int, float, str)


class _Slot(NamedTuple):
    """Where a tensor is in a row."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Slots:
    """Where the tensors of a Vector are, by name."""

    of: dict[str, _Slot]


_SLOTS: Final = (_Slot, _Slots)


@dataclass(frozen=True)
class Layout:
    """How a state is laid out in a row."""

    template: KeptState
    """The state with slots for its leaves, and without its number of steps."""
    width: int
    """The bytes of a row."""

    def fill(
        self, read: Callable[[int, int], Bytes], *, num_rows: int | None, read_only: bool = False
    ) -> KeptState:
        """Return the state whose leaves are in this memory.

        Args:
            read: returns the bytes from one place of a row to another, of all rows together.
            num_rows: R, the length of the axis that leaves get; None: it is one row, without one.
            read_only: whether the memory may only be read.
        """
        stacked = num_rows is not None
        axes = () if num_rows is None else (num_rows,)

        def tensor(slot: _Slot) -> Tensor:
            shape = (*axes, *slot.shape)
            if slot.stop == slot.start:
                return torch.empty(shape, dtype=slot.dtype)
            memory = torch.frombuffer(read(slot.start, slot.stop), dtype=torch.uint8)
            return memory.view(slot.dtype).view(shape)

        def leaf(slot: Any) -> Any:
            if isinstance(slot, _Slot):
                return tensor(slot).clone() if read_only else tensor(slot)
            tensors = {name: tensor(own) for name, own in slot.of.items()}
            return Vector(tensors, stacked=stacked, read_only=read_only)

        filled: KeptState = map_leaves(self.template, leaf, _SLOTS)
        return filled


class _Part(NamedTuple):
    """Consecutive rows of one stack, or the row of one client."""

    layout: Layout
    tensors: list[tuple[_Slot, Tensor, bool]]
    """Each tensor, where it goes, and whether its first axis is the client."""
    rows: list[int] | None
    """Of the stack; None: the tensors are those of one client."""
    num_steps: list[int]

    def write(self, memory: Bytes) -> None:
        """Write the rows."""
        count, width = len(self.num_steps), self.layout.width
        target = torch.from_numpy(memory).view(count, width)
        target[:, :_STEPS].view(torch.int64)[:, 0] = torch.tensor(self.num_steps)
        for slot, tensor, has_axis in self.tensors:
            if slot.stop == slot.start:
                continue
            if has_axis and self.rows is not None:
                is_whole = self.rows == list(range(len(tensor)))
                tensor = tensor if is_whole else tensor[self.rows]
            source = tensor.detach().reshape(count if has_axis else 1, -1)
            target[:, slot.start : slot.stop].view(slot.dtype).copy_(source)


def pack_rows(kept: Sequence[Kept[KeptState]]) -> Bytes | None:
    """Pack what clients keep.

    Returns:
        The array; None if a state has other things in it than Vectors, tensors, numbers and text,
        in dicts, lists and tuples.
    """
    parts: list[_Part] = []
    for stack, run in groupby(kept, key=lambda one: getattr(one, "stack", None)):
        found = [_part_of(one.state, None) for one in run] if stack is None else []
        if stack is not None:
            rows = [one.index for one in run if isinstance(one, KeptRow)]
            found = [_part_of(stack.state, rows, [stack.num_steps[row] for row in rows])]
        if any(part is None for part in found):
            return None
        parts += [part for part in found if part is not None]
    layouts = [part.layout for part in parts for _ in part.num_steps]
    memory, starts = _allocate(layouts)
    row = 0
    for part in parts:
        end = row + len(part.num_steps)
        part.write(memory[starts[row] : starts[end]])
        row = end
    return memory


def join_rows(rows: Sequence[PackedRow]) -> Bytes:
    """Pack rows of other arrays into one of their own."""
    memory, starts = _allocate([row.layout for row in rows])
    for index, row in enumerate(rows):
        memory[starts[index] : starts[index + 1]] = row.memory
    return memory


def _allocate(layouts: Sequence[Layout]) -> tuple[Bytes, list[int]]:
    """Return an array with a header for rows of these layouts, and where each row begins."""
    unique: dict[str, tuple[int, Layout]] = {}  # not by ==: True, 1 and 1.0 are equal
    numbers: list[int] = []
    for before, layout in zip([None, *layouts], layouts, strict=False):
        if layout is before:  # as it mostly is; a comparison takes longer than a copy of the row
            numbers.append(numbers[-1])
            continue
        number, _ = unique.setdefault(repr(layout), (len(unique), layout))
        numbers.append(number)
    layouts_once = tuple(layout for _, layout in unique.values())
    header = pickle.dumps((layouts_once, np.array(numbers, np.uint32)))
    begin = -(-(_STEPS + len(header)) // _ALIGNMENT) * _ALIGNMENT
    starts = [begin, *(begin + np.cumsum([layout.width for layout in layouts])).tolist()]
    memory: Bytes = np.empty(starts[-1], np.uint8)
    memory[:_STEPS] = np.array([len(header)]).view(np.uint8)
    memory[_STEPS : _STEPS + len(header)] = np.frombuffer(header, np.uint8)
    return memory, starts


def _part_of(
    state: KeptState, rows: list[int] | None, num_steps: list[int] | None = None
) -> _Part | None:
    """Return what is written of a client's state, or of a stack's rows; None if it cannot be."""
    stacked = rows is not None
    tensors: list[tuple[_Slot, Tensor, bool]] = []
    end = _STEPS
    is_known = True

    def slot(tensor: Tensor, has_axis: bool) -> _Slot:
        nonlocal end
        shape = tuple(tensor.shape[1:] if has_axis else tensor.shape)
        start = -(-end // 16) * 16
        end = start + int(np.prod(shape, dtype=np.int64)) * tensor.element_size()
        tensors.append((_Slot(start, end, tensor.dtype, shape), tensor, has_axis))
        return tensors[-1][0]

    def leaf(value: Any) -> Any:
        nonlocal is_known
        if isinstance(value, Tensor):
            return slot(value, stacked and value.dim() > 0)
        is_known = is_known and (stacked or not value.stacked)
        return _Slots({name: slot(tensor, value.stacked) for name, tensor in value.items()})

    if not _is_plain(state):
        return None
    template = map_leaves(replace(state, num_steps=0), leaf)
    width = -(-end // _ALIGNMENT) * _ALIGNMENT
    counts = [state.num_steps] if num_steps is None else num_steps
    return _Part(Layout(template, width), tensors, rows, counts) if is_known else None


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of what templates and rows hold."""
    if isinstance(value, KeptState):
        return all(map(_is_plain, vars(value).values()))
    if isinstance(value, dict):
        return all(type(key) in (str, int) and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Tensor):
        return value.layout is torch.strided and not value.is_quantized
    return isinstance(value, Vector) or type(value) in _PLAIN


# -- reading -------------------------------------------------------------------------------------


class PackedRow(NamedTuple):
    """A client's row of an array."""

    layout: Layout
    memory: Bytes

    @property
    def num_steps(self) -> int:
        """How many steps the client has taken."""
        return int(self.memory[:_STEPS].view(np.int64)[0])

    def open(self, *, share: bool) -> KeptState:
        """Return the state.

        Args:
            share: whether its Vectors are read in place; the rest is copied.
        """
        memory = self.memory if share else self.memory.copy()
        state = self.layout.fill(lambda *part: memory[slice(*part)], num_rows=None, read_only=share)
        return replace(state, num_steps=self.num_steps)


class PackedStates(Sequence[PackedRow]):
    """The rows of an array.

    Args:
        memory: what ``pack_rows`` or ``join_rows`` has returned; it is only read.
    """

    def __init__(self, memory: Bytes) -> None:
        length = int(memory[:_STEPS].view(np.int64)[0])
        self._memory = memory
        self._layouts, self._starts = _read_header(memory[_STEPS : _STEPS + length].tobytes())

    def __len__(self) -> int:
        return len(self._layouts)

    @overload
    def __getitem__(self, index: int) -> PackedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PackedRow]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        start = self._starts[index]
        layout = self._layouts[index]
        return PackedRow(layout, self._memory[start : start + layout.width])


@lru_cache(maxsize=1024)
def _read_header(header: bytes) -> tuple[list[Layout], list[int]]:
    """Return the layout of each row, and where it begins."""
    unique, numbers = pickle.loads(header)
    unique = [_interned(pickle.dumps(layout)) for layout in unique]
    layouts = [unique[number] for number in numbers.tolist()]
    begin = -(-(_STEPS + len(header)) // _ALIGNMENT) * _ALIGNMENT
    widths = [layout.width for layout in layouts]
    return layouts, (begin + np.cumsum([0, *widths[:-1]])).tolist()


@lru_cache(maxsize=1024)
def _interned(layout: bytes) -> Layout:
    """Return the same object for the same layout, which is then found to be the same at once."""
    loaded: Layout = pickle.loads(layout)
    return loaded


Entry = PackedRow | KeptState | None


class GivenStates(Sequence["KeptState | None"]):
    """What C clients have kept, opened when it is looked at.

    Args:
        entries: [C] of each client.
        share: whether Vectors of packed states are read in place.
    """

    def __init__(self, entries: Sequence[Entry], *, share: bool) -> None:
        self.entries = list(entries)
        """[C] the same."""
        self._share = share
        self._opened: dict[int, KeptState] = {}
        self._together: tuple[list[int], StackedStates] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> KeptState | None: ...
    @overload
    def __getitem__(self, index: slice) -> GivenStates: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return GivenStates(self.entries[index], share=self._share)
        entry = self.entries[index]
        if not isinstance(entry, PackedRow):
            return entry
        if index not in self._opened:
            self._opened[index] = entry.open(share=self._share)
        return self._opened[index]

    def open_each(self) -> Iterator[KeptState | None]:
        """Iterate over the states, and keep none in memory."""
        for entry in self.entries:
            yield entry.open(share=self._share) if isinstance(entry, PackedRow) else entry

    @property
    def num_steps(self) -> list[int]:
        """[C] how many steps each client has taken; 0 for a new one."""
        return [0 if entry is None else entry.num_steps for entry in self.entries]

    def together(self) -> tuple[list[int], StackedStates] | None:
        """Return the rows of the R clients that have kept a state, and their states as a stack.

        Returns:
            None unless all R have one layout, and some are packed.
        """
        if self._together is None:
            if not any(isinstance(entry, PackedRow) for entry in self.entries):
                return None  # of large states, copies would cost more than values of Python's
            rows = [row for row, entry in enumerate(self.entries) if entry is not None]
            packed = [_as_row(entry) for entry in self.entries if entry is not None]
            known = [row for row in packed if row is not None]
            if not known or len(known) < len(rows):
                return None
            layout = known[0].layout
            if any(one.layout is not layout and one.layout != layout for one in known):
                return None
            self._together = rows, _gather(layout, known)
        return self._together


def _as_row(entry: PackedRow | KeptState) -> PackedRow | None:
    if isinstance(entry, PackedRow):
        return entry
    packed = pack_rows([Kept(entry)])
    return None if packed is None else PackedStates(packed)[0]


def _gather(layout: Layout, rows: Sequence[PackedRow]) -> StackedStates:
    def read(start: int, stop: int) -> Bytes:
        return np.concatenate([row.memory[start:stop] for row in rows])

    state = layout.fill(read, num_rows=len(rows))
    return StackedStates(state, tuple(read(0, _STEPS).view(np.int64).tolist()))
