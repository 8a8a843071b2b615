"""Clipping, casts and top-k against numbers by hand, torch's casts and numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from simfl.errors import ConfigError
from simfl.transforms import Cast, Clip, Codec, TopK, UpdateContext, send_update
from simfl.vector import Vector


def context(size: int, clients: tuple[int, ...] = (0,)) -> UpdateContext:
    return UpdateContext(clients=clients, shapes={"w": (size,)})


def sent(transform: Any, *numbers: float) -> list[float]:
    """Return what the server gets of one client's update."""
    update = Vector({"w": torch.tensor(numbers)})
    values: list[float] = send_update([transform], update, [()], context(1)).update["w"].tolist()
    return values


# -- clip ------------------------------------------------------------------------------------------


def test_an_update_is_scaled_to_the_norm_over_all_tensors() -> None:
    """‖(3, 0, 4)‖ = 5, so that a norm of 1 leaves a fifth."""
    update = Vector({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])})
    clipped, state = Clip(max_norm=1.0).apply(update, {}, UpdateContext())
    torch.testing.assert_close(clipped["a"], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(clipped["b"], torch.tensor([[0.8]]))
    assert state == {}


def test_each_client_of_a_stack_is_clipped_by_its_own_norm() -> None:
    update = Vector({"w": torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])}, stacked=True)
    clipped, _ = Clip(max_norm=2.5).apply(update, {}, UpdateContext(clients=(0, 1, 2)))
    torch.testing.assert_close(clipped["w"], torch.tensor([[1.5, 2.0], [0.3, 0.4], [0.0, 0.0]]))


def test_numbers_whose_squares_overflow_are_clipped_too() -> None:
    assert sent(Clip(max_norm=5.0), 3e30, -4e30) == pytest.approx([3.0, -4.0])


def test_what_is_not_finite_stays_so_when_clipped() -> None:
    for bad in (math.nan, math.inf):
        assert not all(map(math.isfinite, sent(Clip(), 1.0, bad)))


# -- cast ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("float16", 1 + 2**-11, 1.0),  # a tie, to the even one of 1 and 1 + 2⁻¹⁰
        ("float16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("float16", 65504.0, 65504.0),
        ("float16", 2.0**-25, 0.0),
        ("float16", 2.0**-24, 2.0**-24),  # the smallest subnormal number
        ("bfloat16", 1 + 2**-8, 1.0),
        ("bfloat16", 1e38, float(torch.tensor(1e38).bfloat16())),
    ],
)
def test_the_server_adds_what_16_bits_hold(dtype: Any, value: float, expected: float) -> None:
    assert sent(Cast(dtype=dtype), value) == [expected]


def test_numpy_rounds_to_float16_in_the_same_way() -> None:
    values = np.random.default_rng(3).normal(size=1000).astype(np.float32)
    expected = values.astype(np.float16).astype(np.float32)
    assert sent(Cast(), *values.tolist()) == expected.tolist()


def test_a_cast_has_two_bytes_a_number() -> None:
    message = Cast().encode(torch.zeros(3, 7), context(7, (0, 1, 2)))
    assert message.num_bytes == (14, 14, 14)
    assert message.tensors["values"].dtype is torch.float16


def test_what_is_too_large_for_float16_is_infinite() -> None:
    assert sent(Cast(), 65520.0) == [math.inf]
    assert sent(Cast(dtype="bfloat16"), 65536.0) == [65536.0]


# -- top-k -----------------------------------------------------------------------------------------


def test_the_largest_numbers_are_sent_and_the_others_are_zero() -> None:
    assert sent(TopK(count=2), 1.0, -5.0, 3.0, 4.0) == [0.0, -5.0, 0.0, 4.0]


def test_of_equal_magnitudes_the_first_are_sent() -> None:
    assert sent(TopK(count=3), 1.0, -2.0, 3.0, 2.0, 2.0) == [0.0, -2.0, 3.0, 2.0, 0.0]
    assert sent(TopK(count=2), 0.0, 0.0, 0.0) == [0.0, 0.0, 0.0]


def test_the_order_is_that_of_the_tensors() -> None:
    update = Vector({"b": torch.tensor([1.0, 1.0]), "a": torch.tensor([[1.0], [1.0]])})
    found = send_update([TopK(count=3)], update, [()], UpdateContext()).update
    assert (found["b"].tolist(), found["a"].tolist()) == ([1.0, 1.0], [[1.0], [0.0]])


@pytest.mark.parametrize("count", [1, 7, 31, 32, 33, 500, 1000])
def test_top_k_is_a_stable_sort_by_magnitude(count: int) -> None:
    """With many ties: numbers from -20 to 20."""
    rng = np.random.default_rng(count)
    rows = rng.integers(-20, 21, size=(5, 1000)).astype(np.float32)
    expected = np.zeros_like(rows)
    for row, kept in zip(rows, expected, strict=True):
        order = np.argsort(-np.abs(row), kind="stable")[:count]
        kept[order] = row[order]
    codec, where = TopK(count=count), context(1000, tuple(range(5)))
    found = codec.decode(codec.encode(torch.from_numpy(rows), where), where)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        (1000, 10, 10 * 4 + 10 * 4),  # values and int32 positions
        (1000, 31, 31 * 4 + 31 * 4),
        (1000, 32, 32 * 4 + 125),  # a bit for each number is shorter: 125 bytes
        (1001, 500, 500 * 4 + 126),
        (8, 8, 8 * 4 + 1),
    ],
)
def test_a_message_has_values_and_the_shorter_kind_of_positions(
    size: int, count: int, expected: int
) -> None:
    message = TopK(count=count).encode(torch.ones(2, size), context(size, (0, 1)))
    assert message.num_bytes == (expected, expected)


def test_values_of_float64_are_sent_in_eight_bytes() -> None:
    message = TopK(count=2).encode(torch.ones(1, 100, dtype=torch.float64), context(100))
    assert message.num_bytes == (2 * 8 + 2 * 4,)


def test_a_bitmap_has_the_bits_of_numpys_packbits() -> None:
    flat = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 21)).astype(np.float32))
    message = TopK(count=9).encode(flat, context(21, (0, 1, 2)))
    magnitude = np.abs(flat.numpy())
    mask = magnitude >= np.sort(magnitude)[:, [-9]]
    packed = np.packbits(mask, axis=1, bitorder="little")
    np.testing.assert_array_equal(message.tensors["bitmap"].numpy(), packed)


@pytest.mark.parametrize(
    ("codec", "size", "expected"),
    [
        (TopK(), 650, 6),  # 0.01 of them
        (TopK(), 3, 1),
        (TopK(fraction=0.29), 100, 29),  # 28.999999999999996 in floating point
        (TopK(fraction=0.07), 100, 7),  # 7.000000000000001
        (TopK(fraction=1.0), 5, 5),
        (TopK(count=4), 100, 4),
    ],
)
def test_a_fraction_is_rounded_to_a_number_of_at_least_one(
    codec: TopK, size: int, expected: int
) -> None:
    message = codec.encode(torch.ones(1, size), context(size))
    assert message.tensors["values"].shape == (1, expected)


def test_what_is_not_finite_is_sent() -> None:
    """So that the client is dropped, instead of keeping it in its residual."""
    assert not math.isfinite(sent(TopK(count=1), 1e30, math.nan, 2.0)[1])
    assert sent(TopK(count=1), 1e30, -math.inf, 2.0) == [0.0, -math.inf, 0.0]
    assert math.isnan(sent(TopK(count=1), math.nan, math.nan, math.inf)[0])


def test_a_fraction_and_a_count_are_refused_together() -> None:
    with pytest.raises(ConfigError, match=r"top-k: fraction is 0.5 and count is 3; give one"):
        TopK(fraction=0.5, count=3)


def test_a_count_above_the_size_of_an_update_is_refused() -> None:
    with pytest.raises(ConfigError, match="count is 13, but an update has 12 numbers; lower it"):
        TopK(count=13).check_update({"a": (2, 3), "b": (6,)})
    TopK(count=12).check_update({"a": (2, 3), "b": (6,)})


# -- error feedback --------------------------------------------------------------------------------


def test_three_rounds_of_error_feedback_by_hand() -> None:
    """u + e, what is sent of it, and the rest: (4, 3, 1), (0, 3 + 1, 1 + 2), (2, 0, 3 + 2)."""
    updates = [[4.0, 3.0, 1.0], [0.0, 1.0, 2.0], [2.0, 0.0, 2.0]]
    expected_sent = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 5.0]]
    expected_kept = [[0.0, 3.0, 1.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]]
    kept: Any = [()]
    for update, to_send, to_keep in zip(updates, expected_sent, expected_kept, strict=True):
        found = send_update([TopK(count=1)], Vector({"w": torch.tensor(update)}), kept, context(3))
        assert found.update["w"].tolist() == to_send
        assert found.states[0][0]["residual"]["w"].tolist() == to_keep
        kept = found.states


@pytest.mark.parametrize("codec", [TopK(fraction=0.1), Cast(feedback=True)], ids=str)
def test_error_feedback_over_three_rounds_is_numpys(codec: Codec) -> None:
    rng, residual = np.random.default_rng(5), np.zeros(60, np.float32)
    kept: Any = [()]
    for _ in range(3):
        update = rng.normal(size=60).astype(np.float32)
        owed = update + residual
        if isinstance(codec, Cast):
            decoded = owed.astype(np.float16).astype(np.float32)
        else:
            decoded = np.where(np.abs(owed) >= np.sort(np.abs(owed))[-6], owed, 0.0)
        residual = owed - decoded
        found = send_update([codec], Vector({"w": torch.from_numpy(update)}), kept, context(60))
        kept = found.states
        np.testing.assert_array_equal(found.update["w"].numpy(), decoded)
        np.testing.assert_array_equal(kept[0][0]["residual"]["w"].numpy(), residual)


# -- several transforms ----------------------------------------------------------------------------


def test_transforms_are_applied_in_order_and_the_codecs_bytes_count() -> None:
    """(6, 8) is clipped to (3, 4), of which (0, 4) is sent; (3, 0) is kept for the next round."""
    transforms = [Clip(max_norm=5.0), TopK(count=1)]
    update = Vector({"w": torch.tensor([6.0, 8.0])})
    found = send_update(transforms, update, [()], context(2))
    torch.testing.assert_close(found.update["w"], torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(found.states[0][1]["residual"]["w"], torch.tensor([3.0, 0.0]))
    assert found.states[0][0] == {}
    assert found.num_bytes == [4 + 1]  # one of two numbers, and a bit for each
    assert update["w"].tolist() == [6.0, 8.0]


def test_without_a_codec_the_numbers_are_sent_as_they_are() -> None:
    found = send_update(
        [Clip()], Vector({"w": torch.ones(2, 5)}, stacked=True), [()] * 2, context(5)
    )
    assert found.num_bytes == [20, 20]
    assert found.states == [(), ()]


def test_a_generator_depends_on_client_round_and_index_alone() -> None:
    def draws(**where: Any) -> list[float]:
        generators = UpdateContext(seed=1, **where).generators()
        return [float(torch.rand(1, generator=generator)) for generator in generators]

    first, second = draws(clients=(3, 4))
    assert draws(clients=(4,)) == [second]
    others = [draws(clients=(3,), round=2), draws(clients=(3,), index=1)]
    assert len({first, second, *(value for one in others for value in one)}) == 4
