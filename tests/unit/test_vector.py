"""Vector against numpy, stacks against loops, and what pickling must keep."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simfl.errors import VectorError
from simfl.vector import Vector

FINITE = st.floats(-1e6, 1e6, width=64)
BINARY = [operator.add, operator.sub, operator.mul]


def vector(**numbers: object) -> Vector:
    return Vector({name: torch.tensor(value) for name, value in numbers.items()})


def random_vector(seed: int) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (2, 3), "row": (4,), "number": (), "nothing": (0, 2)}
    return Vector({n: torch.randn(s, generator=generator) for n, s in shapes.items()})


@st.composite
def pairs_of_arrays(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    shapes = draw(
        st.lists(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), min_size=1, max_size=3)
    )
    left, right = (
        {f"t{i}": draw(hnp.arrays(np.float64, s, elements=FINITE)) for i, s in enumerate(shapes)}
        for _ in range(2)
    )
    return left, right


# -- arithmetic ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(pairs_of_arrays(), st.sampled_from(BINARY))
def test_arithmetic_of_two_vectors_is_that_of_numpy(pair, operation) -> None:
    left, right = pair
    result = operation(Vector.from_numpy(left), Vector.from_numpy(right)).to_numpy()
    assert result.keys() == left.keys()
    for name in left:
        # Bitwise: each is one correctly rounded IEEE operation.
        np.testing.assert_array_equal(result[name], operation(left[name], right[name]))


@settings(max_examples=40, deadline=None)
@given(pairs_of_arrays(), FINITE, st.sampled_from(BINARY))
def test_arithmetic_with_a_number_is_that_of_numpy_on_either_side(pair, number, operation) -> None:
    array, _ = pair
    wrapped = Vector.from_numpy(array)
    for name, values in array.items():
        for result, expected in (
            (operation(wrapped, number), operation(values, number)),
            (operation(number, wrapped), operation(number, values)),
        ):
            np.testing.assert_array_equal(result.to_numpy()[name], expected)


def test_division_and_powers_work_element_by_element() -> None:
    v = vector(a=[1.0, 4.0], b=2.0)
    assert v / vector(a=[2.0, 8.0], b=4.0) == vector(a=[0.5, 0.5], b=0.5)
    assert v / 2 == vector(a=[0.5, 2.0], b=1.0)
    assert 4 / v == vector(a=[4.0, 1.0], b=2.0)
    assert v**2 == vector(a=[1.0, 16.0], b=4.0)
    assert v**v == vector(a=[1.0, 256.0], b=4.0)


def test_sign_sqrt_and_negation_work_element_by_element() -> None:
    v = vector(a=[-4.0, 0.0, 9.0])
    assert v.sign() == vector(a=[-1.0, 0.0, 1.0])
    assert (v * v.sign()).sqrt() == vector(a=[2.0, 0.0, 3.0])
    assert -vector(a=[1.0, -2.0]) == vector(a=[-1.0, 2.0])


@pytest.mark.parametrize("bound", [1.0, torch.tensor(1.0), vector(a=[1.0, 1.0], b=1.0)])
def test_minimum_and_maximum_take_numbers_tensors_and_vectors(bound) -> None:
    v = vector(a=[0.0, 2.0], b=3.0)
    assert v.minimum(bound) == vector(a=[0.0, 1.0], b=1.0)
    assert v.maximum(bound) == vector(a=[1.0, 2.0], b=3.0)


@pytest.mark.parametrize("number", [np.float32(2), np.float64(2), np.int64(2), torch.tensor(2.0)])
def test_numbers_of_numpy_and_torch_work_on_either_side(number) -> None:
    v = vector(a=[1.0, 3.0])
    assert v * number == number * v == vector(a=[2.0, 6.0])
    assert number - v == vector(a=[1.0, -1.0])


def test_vectors_combine_by_name_whatever_their_order() -> None:
    left, right = vector(a=[1.0], b=[2.0]), vector(b=[20.0], a=[10.0])
    assert left + right == vector(a=[11.0], b=[22.0])
    assert left.clone().add_(right) == vector(a=[11.0], b=[22.0])


def test_different_names_are_an_error_that_lists_them() -> None:
    with pytest.raises(VectorError, match="one Vector only: b, c"):
        vector(a=1.0, b=1.0) + vector(a=1.0, c=1.0)
    with pytest.raises(VectorError, match="one Vector only: b"):
        vector(a=1.0).add_(vector(a=1.0, b=1.0))


@pytest.mark.parametrize("other", ["2", None, [1.0]])
def test_arithmetic_with_anything_else_is_a_type_error(other) -> None:
    with pytest.raises(TypeError):
        vector(a=1.0) + other


def test_operations_leave_their_inputs_alone() -> None:
    left, right = vector(a=[1.0, -2.0]), vector(a=[3.0, 4.0])
    for result in (left + right, left * 2, -left, left.sign(), left.minimum(right), left.clone()):
        result.mul_(100.0)
    assert left == vector(a=[1.0, -2.0])
    assert right == vector(a=[3.0, 4.0])


def test_in_place_operations_write_into_the_same_memory() -> None:
    tensor = torch.tensor([1.0, 2.0])
    v = Vector({"a": tensor})
    assert v.add_(vector(a=[1.0, 1.0])) is v
    assert v.mul_(3.0) is v
    assert v.div_(2.0) is v
    assert tensor.tolist() == [3.0, 4.5]
    assert v.mul_(vector(a=[3.0, 2.0])) is v
    assert tensor.tolist() == [9.0, 9.0]
    assert v.div_(vector(a=[1.0, -9.0])) is v
    assert tensor.tolist() == [9.0, -1.0]
    assert v.sign_() is v
    assert tensor.tolist() == [1.0, -1.0]
    assert v.add_(vector(a=[3.0, 10.0])).sqrt_() is v
    assert tensor.tolist() == [2.0, 3.0]


def test_bfloat16_stays_bfloat16() -> None:
    v = Vector({"a": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)})
    results = [v + v, v * 0.5, v / 3, v**2, v.sqrt(), v.minimum(1.5), v * torch.tensor(0.5)]
    assert {result["a"].dtype for result in results} == {torch.bfloat16}


# -- reductions ----------------------------------------------------------------------------


def test_norms_and_sums_are_per_tensor_and_norm_and_sum_over_all() -> None:
    v = vector(a=[[3.0], [4.0]], b=12.0, c=torch.zeros(0, 3).tolist())
    assert {name: norm.item() for name, norm in v.norms().items()} == {"a": 5.0, "b": 12.0, "c": 0}
    assert v.norm().item() == 13.0
    assert {name: total.item() for name, total in v.sums().items()} == {"a": 7.0, "b": 12.0, "c": 0}
    assert v.sum().item() == 19.0
    assert v.norm().shape == v.sum().shape == ()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_makes_a_vector_not_finite(bad: float) -> None:
    assert vector(a=[1.0, 2.0], b=[]).is_finite().item()
    assert not vector(a=[1.0, 2.0], b=bad).is_finite().item()


def test_numbers_too_large_to_be_squared_are_finite() -> None:
    large = vector(a=[3e38, -3e38], b=[1.0])
    assert large.is_finite().item()
    assert Vector.stack([large, large]).is_finite().tolist() == [True, True]


# -- stacks --------------------------------------------------------------------------------

STACKED_AS_LOOPED: dict[str, Callable[[Vector, Vector], Vector]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "power": lambda a, b: (a * a) ** b,
    "minimum": Vector.minimum,
    "maximum": Vector.maximum,
    "sign": lambda a, _: a.sign(),
    "number": lambda a, _: 2.0 - a * 3.0,
}


@pytest.mark.parametrize("name", STACKED_AS_LOOPED)
def test_a_stack_computes_what_a_loop_over_its_clients_does(name: str) -> None:
    operation = STACKED_AS_LOOPED[name]
    left = [random_vector(seed) for seed in (1, 2, 3)]
    right = [random_vector(seed) for seed in (4, 5, 6)]
    looped = [operation(a, b) for a, b in zip(left, right, strict=True)]
    stacked = operation(Vector.stack(left), Vector.stack(right))
    assert stacked.num_clients == 3
    assert stacked.unstack() == looped


@pytest.mark.parametrize("operation", [*BINARY, operator.truediv])
def test_one_vector_for_all_clients_combines_with_each_row(operation) -> None:
    rows, single = [random_vector(seed) for seed in (1, 2)], random_vector(3)
    assert operation(Vector.stack(rows), single).unstack() == [operation(r, single) for r in rows]
    assert operation(single, Vector.stack(rows)).unstack() == [operation(single, r) for r in rows]


def test_one_number_per_client_multiplies_that_client() -> None:
    rows = [random_vector(seed) for seed in (1, 2)]
    scaled = Vector.stack(rows) * torch.tensor([2.0, 3.0])
    assert scaled.unstack() == [rows[0] * 2.0, rows[1] * 3.0]


def test_norms_sums_and_finiteness_of_a_stack_are_per_client() -> None:
    rows = [vector(a=[3.0, 4.0], b=0.0), vector(a=[0.0, 0.0], b=float("inf"))]
    stack = Vector.stack(rows)
    assert stack.norm().tolist() == [5.0, float("inf")]
    assert stack.norms()["a"].tolist() == [5.0, 0.0]
    assert stack.sum().tolist() == [7.0, float("inf")]
    assert stack.is_finite().tolist() == [True, False]


def test_a_vector_without_client_axis_has_no_number_of_clients() -> None:
    assert random_vector(0).num_clients is None


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 1)])
def test_different_shapes_are_an_error_that_names_the_tensor(shape: tuple[int, ...]) -> None:
    """Also those that torch would broadcast."""
    one = Vector({"a": torch.ones(2), "w": torch.ones(3)})
    other = Vector({"a": torch.ones(2), "w": torch.ones(shape)})
    for combine in (Vector.__add__, Vector.minimum, Vector.add_):
        with pytest.raises(VectorError, match=r"'w' has shape \[3\] in one Vector and \["):
            combine(one, other)


def test_stacking_vectors_of_different_names_is_an_error() -> None:
    with pytest.raises(VectorError):
        Vector.stack([vector(a=1.0), vector(b=1.0)])


# -- reading and making others -------------------------------------------------------------


def test_counts_of_elements_and_bytes_add_up_over_tensors() -> None:
    v = Vector({"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)})
    assert v.num_elements == 7
    assert v.num_bytes == 6 * 4 + 8
    assert v.names == tuple(v) == ("a", "b")
    assert "a" in v
    assert "c" not in v
    assert len(v) == 2


def test_select_and_union_keep_the_order_asked_for() -> None:
    v = vector(a=1.0, b=2.0, c=3.0)
    assert v.select(["c", "a"]).names == ("c", "a")
    assert vector(a=1.0, b=2.0) | vector(b=5.0, d=4.0) == vector(a=1.0, b=5.0, d=4.0)


def test_equality_asks_for_names_shapes_dtypes_and_bits() -> None:
    v = vector(a=[1.0, float("nan")])
    assert v == v.clone()
    assert v != vector(b=[1.0, float("nan")])
    assert vector(a=[1.0]) != vector(a=[[1.0]])
    assert vector(a=[1.0]) != Vector({"a": torch.tensor([1.0], dtype=torch.float64)})
    assert vector(a=[1.0]) != vector(a=[2.0])
    assert vector(a=[1.0]) != Vector({"a": torch.tensor([1.0])}, stacked=True)


def test_zeros_like_and_clone_own_their_memory() -> None:
    v = vector(a=[1.0])
    v.clone().mul_(5.0)
    v.zeros_like().add_(v)
    assert v == vector(a=[1.0])


def test_numpy_arrays_are_wrapped_without_a_copy_unless_read_only() -> None:
    array, frozen = np.ones(2), np.ones(2)
    frozen.flags.writeable = False
    v = Vector.from_numpy({"a": array, "b": frozen})
    v.mul_(2.0)
    assert array.tolist() == [2.0, 2.0]
    assert frozen.tolist() == [1.0, 1.0]
    assert np.shares_memory(v.to_numpy()["a"], array)


# -- pickling ------------------------------------------------------------------------------


def many_kinds() -> Vector:
    return Vector(
        {
            "float": torch.tensor([[1.5, float("nan")], [-0.0, float("inf")]]),
            "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
            "number": torch.tensor(3.25),
            "count": torch.tensor(7, dtype=torch.int64),
            "flags": torch.tensor([True, False]),
            "nothing": torch.zeros(2, 0),
            "transposed": torch.arange(6.0).reshape(2, 3).T,
        }
    )


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickling_keeps_every_bit_name_shape_and_dtype(protocol: int) -> None:
    v = many_kinds()
    assert pickle.loads(pickle.dumps(v, protocol=protocol)) == v


def test_pickling_keeps_the_client_axis() -> None:
    stack = Vector.stack([many_kinds(), many_kinds()])
    assert pickle.loads(pickle.dumps(stack)).num_clients == 2


def test_a_single_number_with_a_wider_stride_pickles() -> None:
    number = torch.tensor([1.0, 2.0])[1::2]  # contiguous, says torch, with a stride of 2
    assert pickle.loads(pickle.dumps(Vector({"a": number})))["a"].tolist() == [2.0]


def test_buffers_can_travel_out_of_band() -> None:
    buffers: list[pickle.PickleBuffer] = []
    v = Vector({"a": torch.zeros(1000)})
    body = pickle.dumps(v, protocol=5, buffer_callback=buffers.append)
    assert len(body) < 1000  # the 4,000 bytes of numbers are not in it
    assert pickle.loads(body, buffers=buffers) == v


def test_a_vector_from_read_only_buffers_is_a_private_copy() -> None:
    """As from the object store: writing to the Vector must not write to the store."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(vector(a=[1.0, 2.0]), protocol=5, buffer_callback=buffers.append)
    stored = [bytes(buffer.raw()) for buffer in buffers]
    before = [bytes(bytearray(raw)) for raw in stored]
    first = pickle.loads(body, buffers=stored)
    first.mul_(10.0)
    assert stored == before
    assert pickle.loads(body, buffers=stored) == vector(a=[1.0, 2.0])


def test_a_vector_that_requires_gradients_pickles_as_plain_numbers() -> None:
    v = Vector({"a": torch.nn.Parameter(torch.ones(2))})
    restored = pickle.loads(pickle.dumps(v))
    assert not restored["a"].requires_grad
    assert restored == vector(a=[1.0, 1.0])


def read_only(memory: list[np.ndarray]) -> list[np.ndarray]:
    for array in memory:
        array.flags.writeable = False
    return memory


def test_a_vector_from_memory_shares_it_read_only_or_not() -> None:
    source = Vector({"a": torch.tensor([[1.0, 2.0]]), "none": torch.zeros(0, 3)})
    layout, memory = source.to_memory()
    shared = Vector.from_memory(layout, read_only(memory))
    assert shared == source
    assert shared["a"].data_ptr() == source["a"].data_ptr()


def test_what_shares_a_read_only_vector_s_memory_is_read_only_and_results_are_not() -> None:
    shared = Vector.from_memory(*Vector.stack([vector(a=[1.0]), vector(a=[2.0])]).to_memory())
    shares = [
        shared.to("cpu"),
        shared.select(["a"]),
        shared | Vector({}, stacked=True),
        Vector({}, stacked=True) | shared,
        *shared.unstack(),
    ]
    assert all(share.read_only for share in shares)
    own = [shared.clone(), shared + shared, shared * 2.0, shared.zeros_like()]
    assert not any(vector.read_only for vector in own)


@pytest.mark.parametrize("change", ["add_", "mul_", "div_", "sqrt_", "sign_"])
def test_a_read_only_vector_refuses_to_be_changed(change: str) -> None:
    shared = Vector.from_memory(*vector(a=[1.0, 2.0]).to_memory())
    operands = {"add_": [shared.clone()], "mul_": [2.0], "div_": [shared.clone()]}
    with pytest.raises(VectorError, match=r"read-only; change a clone\(\) of it"):
        getattr(shared, change)(*operands.get(change, ()))
    assert shared == vector(a=[1.0, 2.0])


def test_adding_a_scaled_vector_rounds_once_as_torch_s_alpha_does() -> None:
    a, b = torch.randn(1000), torch.randn(1000)
    added = Vector({"a": a}).add_scaled(Vector({"a": b}), -0.1)["a"]
    assert torch.equal(added, torch.add(a, b, alpha=-0.1))
    assert not torch.equal(added, a + -0.1 * b)  # rounded twice


def test_numpy_gets_bfloat16_as_float32_of_the_same_values() -> None:
    array = Vector({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}).to_numpy()["a"]
    assert (array.dtype, array.tolist()) == (np.float32, [1.5, -2.0])


def test_tensors_beside_those_of_a_stack_are_the_same_for_all_clients() -> None:
    rows = [vector(a=[1.0, 2.0]), vector(a=[3.0, 4.0])]
    shared = vector(a=[0.0, 0.0], b=[5.0])
    expected = Vector.stack([shared | row for row in rows])
    assert shared | Vector.stack(rows) == expected
    assert Vector.stack(rows) | shared == Vector.stack([row | shared for row in rows])
    assert Vector({}) | Vector.stack(rows) == Vector.stack(rows)
    with pytest.raises(VectorError, match="read-only"):
        shared.expand(2).mul_(2.0)


def test_a_vector_without_tensors_is_finite() -> None:
    assert Vector({}).is_finite()
    assert Vector({}, stacked=True).is_finite()
