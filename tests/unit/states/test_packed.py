"""States of many clients in one array come out as they went in, one by one and together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.states import (
    GivenStates,
    Kept,
    KeptRow,
    KeptState,
    PackedStates,
    StackedStates,
    encode_file,
    join_rows,
    pack_rows,
)
from simfl.vector import Vector

NUM_CLIENTS = 5


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(*shape) * 100).to(dtype)


def stack() -> StackedStates:
    """Return states with leaves of several types: of each client, of no size, and of all."""
    momenta = Vector({"w": drawn(NUM_CLIENTS, 3, 2), "b": drawn(NUM_CLIENTS, 0)}, stacked=True)
    module = {
        "momenta": momenta,
        "half": drawn(NUM_CLIENTS, 3, dtype=torch.bfloat16),
        "is_new": drawn(NUM_CLIENTS) > 50,
        "power": drawn(NUM_CLIENTS, dtype=torch.float64),
        "shared": Vector({"w": drawn(3, 2)}),
        "count": torch.tensor(7),
    }
    state = KeptState(0, modules=(module, {}), regularizers=(), algorithm={"v": drawn(NUM_CLIENTS)})
    return StackedStates(state, num_steps=(4, 3, 2, 1, 9))


def packed(kept: list[Kept[KeptState]]) -> PackedStates:
    memory = pack_rows(kept)
    assert memory is not None
    memory.flags.writeable = False  # as in the object store
    return PackedStates(memory)


def test_rows_of_a_stack_and_states_of_single_clients_are_the_same_rows() -> None:
    """Bit for bit, by the codec of checkpoints; dropped clients are left out."""
    whole = stack()
    rows = [KeptRow(whole, index) for index in (0, 2, 3, 4)]
    expected = [encode_file(whole.row(row.index)) for row in rows]
    single: list[Kept[KeptState]] = [Kept(row.state) for row in rows]
    for kept in ([*rows], single, [rows[0], single[1], *rows[2:]]):
        found = packed(kept)
        assert [encode_file(row.open(share=True)) for row in found] == expected
        assert [encode_file(row.open(share=False)) for row in found] == expected
    moved = PackedStates(join_rows([packed(single)[3], packed([*rows])[0]]))
    assert [encode_file(row.open(share=True)) for row in moved] == [expected[3], expected[0]]


def test_clients_that_keep_different_entries_have_rows_of_different_layouts() -> None:
    one, two = stack().row(0), stack().row(1)
    two = replace(two, phases={"own": KeptState(5, (), ())}, personal=Vector({"h": drawn(9)}))
    found = packed([Kept(one), Kept(two), Kept(one)])
    assert [encode_file(row.open(share=True)) for row in found] == [
        encode_file(state) for state in (one, two, one)
    ]
    assert GivenStates(list(found), share=True).together() is None
    alike = GivenStates([None, found[0], None, one], share=True).together()
    assert alike is not None
    rows, together = alike
    assert (rows, together.num_steps) == ([1, 3], (4, 4))
    assert encode_file(together.row(1)) == encode_file(one)


def test_numbers_that_are_equal_but_not_the_same_stay_what_they_are() -> None:
    values: list[Any] = [True, 1, 1.0, 0.0, -0.0, 0, False]
    found = packed([Kept(KeptState(0, ({"best": value},), ())) for value in values])
    assert [repr(row.open(share=True).modules[0]["best"]) for row in found] == list(
        map(repr, values)
    )


@pytest.mark.parametrize(
    "odd",
    [
        object(),
        {1.5: 2},
        Vector({"w": drawn(2, 2)}, stacked=True),
        torch.eye(2).to_sparse(),
    ],
)
def test_what_rows_cannot_hold_is_not_packed(odd: Any) -> None:
    assert pack_rows([Kept(KeptState(0, ({"odd": odd},), ()))]) is None


def test_states_that_are_shared_cannot_be_written_and_copies_can() -> None:
    row = packed([Kept(stack().row(0))])[0]
    assert row.open(share=True).modules[0]["momenta"].read_only
    row.open(share=False).modules[0]["momenta"].mul_(0.0)
    assert encode_file(row.open(share=False)) == encode_file(row.open(share=True))


MODULES: list[Any] = [["adam"], ["scaffold-client", "momentum"], [["adam", {"amsgrad": True}]]]


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("new", [(), (1, 4)])
def test_a_stack_begins_from_packed_states_as_from_single_ones(
    modules: list[Any], new: tuple[int, ...]
) -> None:
    """What three steps with them make has the same bits, whether some clients are new or none."""
    gradients = [
        Vector({"w": drawn(NUM_CLIENTS, 4), "b": drawn(NUM_CLIENTS, 1)}, stacked=True)
        for _ in range(4)
    ]
    aux: Any = {"scaffold": {"state": Vector({"w": drawn(4), "b": drawn(1)})}}
    aux = aux if "scaffold-client" in modules else {}
    optimizer = Optimizer(0.1, modules=modules)

    def trained(kept: Any) -> list[KeptState | None]:
        local = LocalOptimizer(optimizer, stacked=True)
        like = Vector({name: tensor[0] for name, tensor in gradients[0].items()})
        local.begin(range(NUM_CLIENTS), round=1, kept=kept, aux=aux, like=like)
        for gradient in gradients[1:] if any(kept) else gradients[:1]:
            local.apply_gradients(_Nothing(), gradient)
        local.end_steps()
        together = local.end_together([1] * NUM_CLIENTS)
        ended = local.end([1] * NUM_CLIENTS)
        assert together is not None
        for index, state in enumerate(ended):
            assert encode_file(together.row(index)) == encode_file(state)
        return ended

    first = trained([None] * NUM_CLIENTS)
    kept = [None if client in new else state for client, state in enumerate(first)]
    rows = iter(packed([Kept(state) for state in kept if state is not None]))
    given = GivenStates([None if state is None else next(rows) for state in kept], share=True)
    assert list(map(encode_file, trained(given))) == list(map(encode_file, trained(kept)))


class _Nothing:
    """A model without weights of its own."""

    def apply_scaled_updates(self, updates: Vector, scale: Any) -> None:
        pass

    def get_weights(self, trainable: bool) -> Vector:
        raise NotImplementedError

    def apply_updates(self, updates: Vector) -> None:
        pass
