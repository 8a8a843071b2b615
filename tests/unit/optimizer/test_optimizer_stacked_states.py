import pytest
import torch
from toy_models import vector

from simfl.errors import VectorError
from simfl.optimizer import Adam, ScaffoldClient
from simfl.optimizer.state import fill_state, stack_states, unstack_state
from simfl.vector import Vector


def test_states_stack_leaf_by_leaf_and_come_apart_again() -> None:
    states = [
        {"v": vector(w=[1.0, 2.0]), "n": torch.tensor(1)},
        {"v": vector(w=[3.0, 4.0]), "n": torch.tensor(5)},
    ]
    stack = stack_states(states)
    assert stack["v"]["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert stack["n"].tolist() == [1, 5]
    assert unstack_state(stack, 2) == states


def test_a_vector_that_all_clients_share_is_not_copied() -> None:
    shared = vector(w=[1.0])
    stack = stack_states([{"v": shared}, {"v": shared}])
    assert stack["v"] is shared
    assert unstack_state(stack, 2) == [{"v": shared}, {"v": shared}]


def test_states_of_different_entries_do_not_stack() -> None:
    with pytest.raises(VectorError, match=r"states differ: \['a'\] and \[\]"):
        stack_states([{"a": torch.tensor(1)}, {}])


def test_filling_leaves_what_is_there() -> None:
    received = {"correction": vector(w=[2.0])}
    state = fill_state(ScaffoldClient(), received, vector(w=[7.0]))
    assert state["correction"] == vector(w=[2.0])
    assert state["own"] == state["total"] == vector(w=[0.0])
    assert (state["steps"].item(), state["is_new"].item()) == (0, True)


def test_filling_for_a_stack_gives_each_client_a_row() -> None:
    like = Vector.stack([vector(w=[7.0, 8.0])] * 3)
    state = fill_state(Adam(), {}, like)
    assert state["first"].stacked
    assert state["first"]["w"].shape == (3, 2)
    assert state["power_1"].tolist() == [1.0, 1.0, 1.0]
