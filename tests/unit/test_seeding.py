"""Seeds depend only on their purpose."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import simfl
from simfl.seeding import (
    SERVER,
    derive_seed,
    derive_seeds,
    hashed_orders,
    numpy_generator,
    torch_generator,
)

ARGUMENTS = [{"round": 1}, {"client": 1}, {"step": 1}, {"client": SERVER}]


def test_the_seed_is_the_hash_of_its_arguments_in_63_bits() -> None:
    """The documented recipe, spelled out: seeds must stay the same between versions."""
    packed = b"".join(struct.pack("<q", value) for value in (5, 2, 3, 4)) + b"noise"
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    expected = int.from_bytes(digest, "little") // 2
    assert derive_seed(5, "noise", round=2, client=3, step=4) == expected < 2**63


@pytest.mark.parametrize("changed", ARGUMENTS, ids=str)
def test_any_changed_argument_changes_the_seed(changed) -> None:
    assert derive_seed(0, "shuffle", **changed) != derive_seed(0, "shuffle")


def test_purpose_and_run_seed_change_the_seed() -> None:
    seeds = {derive_seed(0, "shuffle"), derive_seed(0, "noise"), derive_seed(1, "shuffle")}
    assert len(seeds) == 3


def test_ten_thousand_clients_get_ten_thousand_seeds() -> None:
    seeds = {derive_seed(0, "shuffle", round=1, client=client) for client in range(10_000)}
    assert len(seeds) == 10_000


def test_seeds_are_the_same_in_another_process() -> None:
    code = "from simfl.seeding import derive_seed; print(derive_seed(3, 'noise', client=8))"
    root = str(Path(simfl.__file__).parents[1])
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    ).stdout
    assert int(printed) == derive_seed(3, "noise", client=8)


@pytest.mark.parametrize("make", [numpy_generator, torch_generator])
def test_generators_of_the_same_arguments_draw_the_same_numbers(make) -> None:
    def draw(**arguments: int) -> list[float]:
        generator = make(0, "noise", **arguments)
        if isinstance(generator, np.random.Generator):
            return generator.normal(size=4).tolist()
        return torch.randn(4, generator=generator).tolist()

    assert draw(round=1, client=2) == draw(round=1, client=2)
    assert draw(round=1, client=2) != draw(round=2, client=1)


@pytest.mark.parametrize("make", [numpy_generator, torch_generator])
def test_the_global_generators_are_not_touched(make) -> None:
    before = torch.get_rng_state()
    state = np.random.get_state()[1].copy()
    make(0, "noise", round=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == state).all()


def test_a_torch_generator_is_a_mersenne_twister_keyed_with_128_bits() -> None:
    """The recipe, spelled out; numpy's own twister in that state draws the same numbers."""
    packed = b"".join(struct.pack("<q", value) for value in (5, 2, 3, 4)) + b"noise"
    key = int.from_bytes(hashlib.blake2b(packed, digest_size=16).digest(), "little")
    words = (np.random.Philox(key=key).random_raw(624) >> np.uint64(32)).astype(np.uint32)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}

    generator = torch_generator(5, "noise", round=2, client=3, step=4)
    drawn = torch.empty(2000, dtype=torch.int64).random_(0, 2**20, generator=generator)
    assert drawn.tolist() == (twister.random_raw(2000) % 2**20).tolist()


def test_seeds_whose_last_32_bits_agree_draw_different_numbers() -> None:
    """Of a seed torch's own ``manual_seed`` takes no others."""
    one, other = {"round": 2, "client": 38, "step": 6}, {"round": 5, "client": 7, "step": 18}
    purpose = "gaussian-noise/0"
    seeds = [derive_seed(0, purpose, **place) for place in (one, other)]
    assert len({seed % 2**32 for seed in seeds}) == 1
    first, second = (
        torch.randn(20, generator=torch_generator(0, purpose, **place)) for place in (one, other)
    )
    assert not torch.isclose(first, second).any()


def test_orders_are_those_of_splitmix64() -> None:
    """The first numbers of SplitMix64 from seed 1234567, as its reference implementation prints."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    expected = sorted(range(5), key=published.__getitem__)
    assert hashed_orders(np.array([1234567]), np.array([5])).tolist() == expected


def test_orders_drawn_together_are_those_drawn_alone() -> None:
    seeds, lengths = np.array([3, 2**62, 7]), np.array([4, 1, 6])
    alone = [hashed_orders(seeds[k : k + 1], lengths[k : k + 1]).tolist() for k in range(3)]
    assert hashed_orders(seeds, lengths).tolist() == alone[0] + alone[1] + alone[2]


def test_every_order_of_three_is_drawn_about_as_often() -> None:
    """6,000 draws of 6 orders: 1,000 each, with a standard deviation of 29, times five."""
    seeds = derive_seeds(np.zeros(6000, dtype=np.int64), np.arange(6000))
    orders = hashed_orders(seeds, np.full(6000, 3)).reshape(6000, 3)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts - 1000).max() < 145
