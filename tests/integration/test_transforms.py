"""Transforms of updates in whole runs: against numpy, closed forms, and runs without them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_same_bits import merged
from torch import Tensor, nn

import simfl
from simfl.errors import InputError, NonFiniteUpdateError, ScenarioError
from simfl.simulation import build
from simfl.states import State
from simfl.transforms import UpdateContext, UpdateTransform
from simfl.vector import Vector

HERE = str(Path(__file__).parent)
SIZES = (5, 3, 9)
LRATE = 0.05


class Through(nn.Linear):
    """A linear function of three numbers without an intercept, at first their sum."""

    def __init__(self) -> None:
        super().__init__(3, 1, bias=False)
        nn.init.ones_(self.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).squeeze(-1)


def least_squares() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the inputs and targets of three clients with different solutions."""
    rng = np.random.default_rng(8)
    inputs = [rng.normal(size=(size, 3)).astype(np.float32) for size in SIZES]
    targets = [(x @ rng.normal(size=3)).astype(np.float32) for x in inputs]
    return inputs, targets


def scenario(
    folder: Path, inputs: list[np.ndarray], targets: list[np.ndarray], **client: Any
) -> dict[str, Any]:
    """One full-batch step a round of every client: an update is LRATE times the gradient."""
    owners = np.repeat(np.arange(len(inputs)), [len(own) for own in inputs])
    columns = {"inputs": np.concatenate(inputs), "targets": np.concatenate(targets)}
    np.savez(folder / "data.npz", client=owners, **columns)
    return {
        "rounds": 3,
        "plugins": ["at_random", "test_transforms"],
        "search": [HERE],
        "data": {"source": "npz", "path": str(folder / "data.npz")},
        "model": {"kind": "python", "path": "test_transforms:Through", "loss": "mse"},
        "client": {"steps": 1, "optimizer": {"lrate": LRATE}, **client},
        "evaluation": {"every": 0},
    }


def run(plain: dict[str, Any], out: Path, **how: Any) -> simfl.Result:
    return simfl.run(plain, out=out, backend="inline", **how)


def weights_of(result: simfl.Result) -> np.ndarray:
    return result.weights["weight"].ravel()


# -- against numpy -----------------------------------------------------------------------------


def top_1(numbers: np.ndarray) -> np.ndarray:
    kept = np.zeros_like(numbers)
    largest = np.argmax(np.abs(numbers))
    kept[largest] = numbers[largest]
    return kept


def reference(
    *, rounds: int, feedback: bool = True, dropped: Collection[tuple[int, int]] = ()
) -> np.ndarray:
    """Run FedAvg with top-1 and error feedback: Stich et al., 2018, Algorithm 1, in float64.

    Args:
        rounds: how many.
        feedback: whether residuals are kept.
        dropped: (round, client) whose update is lost; such a client's residual stays as it was.
    """
    inputs, targets = least_squares()
    weights, residuals = np.ones(3), np.zeros((3, 3))
    for number in range(1, rounds + 1):
        total, size = np.zeros(3), 0
        for client, (x, y) in enumerate(zip(inputs, targets, strict=True)):
            if (number, client) in dropped:
                continue
            owed = LRATE * 2 * x.T @ (x @ weights - y) / len(y) + residuals[client]
            sent = top_1(owed)
            residuals[client] = owed - sent if feedback else 0.0
            total, size = total + len(y) * sent, size + len(y)
        weights = weights - total / size
    return weights


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("feedback", [True, False])
def test_three_rounds_with_error_feedback_are_numpys(
    feedback: bool, stack: int, tmp_path: Path
) -> None:
    top = ["top-k", {"count": 1, "feedback": feedback}]
    plain = scenario(tmp_path, *least_squares(), transforms=[top], stack=stack)
    found = weights_of(run(plain, tmp_path / "out"))
    np.testing.assert_allclose(found, reference(rounds=3, feedback=feedback), rtol=1e-5)


@pytest.mark.parametrize("stack", [1, 4])
def test_a_dropped_client_keeps_its_residual_also_on_disk_and_in_a_resumed_run(
    stack: int, tmp_path: Path
) -> None:
    """Client 2 sends NaN in round 2. The run stops after round 3, and its states are in files."""
    stumble = ["stumble", {"failing": [], "diverging": [2], "rounds": [2]}]
    plain = scenario(
        tmp_path,
        *least_squares(),
        transforms=[["top-k", {"count": 1}]],
        stack=stack,
        on_nonfinite="drop",
        optimizer={"lrate": LRATE, "modules": [stumble]},
    )
    plain |= {"cluster": {"state_memory": 1}, "checkpoint": {"every": 1}}
    run(plain, tmp_path / "out")
    result = run(plain | {"rounds": 6}, tmp_path / "out", resume="auto")
    assert result.summary["resumed_after_round"] == 3
    assert [record["dropped"] for record in result.history] == [0, 1, 0, 0, 0, 0]
    expected = reference(rounds=6, dropped={(2, 2)})
    np.testing.assert_allclose(weights_of(result), expected, rtol=1e-5)
    whole = run(plain | {"rounds": 6}, tmp_path / "whole")
    assert weights_of(whole).tobytes() == weights_of(result).tobytes()


# -- a known result ----------------------------------------------------------------------------


def diverging(folder: Path, *, feedback: bool) -> dict[str, Any]:
    """f_i(x) = (a_i · x)² + ‖x‖² / 4 with a_1 = (-3, 2, 2), a_2 = (2, -3, 2), a_3 = (2, 2, -3).

    Each is the mean over four rows of (row · x)². From x = (1, 1, 1) the gradients are (-11, 9, 9)
    / 2 and so on, of which top-1 without feedback sends the entry that has the wrong sign.
    """
    rows = [np.where(np.eye(3)[i] == 1, -3.0, 2.0) for i in range(3)]
    inputs = [np.concatenate([[2 * row], np.eye(3)]).astype(np.float32) for row in rows]
    transforms = [["top-k", {"count": 1, "feedback": feedback}]]
    targets = [np.zeros(4, np.float32)] * 3
    plain = scenario(folder, inputs, targets, transforms=transforms)
    plain["client"]["optimizer"]["lrate"] = 0.05
    return plain


def test_top_1_without_feedback_diverges_at_the_known_rate(tmp_path: Path) -> None:
    """Beznosikov et al., 2023, Example 1, https://arxiv.org/abs/2002.12410: x grows by a factor of
    1 + 11/6 times the learning rate in each round."""
    plain = diverging(tmp_path, feedback=False) | {"rounds": 20}
    found = weights_of(run(plain, tmp_path / "out"))
    np.testing.assert_allclose(found, (1 + 11 / 6 * 0.05) ** 20, rtol=1e-4)


def test_top_1_with_feedback_converges_on_the_same_clients(tmp_path: Path) -> None:
    """Without top-1, x shrinks by a factor of 1 - 7/6 times the learning rate: e⁻⁶ in 100."""
    plain = diverging(tmp_path, feedback=True) | {"rounds": 100}
    assert np.abs(weights_of(run(plain, tmp_path / "out"))).max() < 0.05


# -- with everything else ----------------------------------------------------------------------

DIGITS: dict[str, Any] = {
    "rounds": 3,
    "seed": 2,
    "plugins": ["at_random"],
    "search": [HERE],
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 8, "alpha": 0.5},
    },
    "model": {"kind": "mlp", "hidden": [5]},
    "client": {"per_round": 5, "batch_size": 32, "optimizer": {"lrate": 0.1}},
}
"""An update of 64 * 5 + 5 + 5 * 10 + 10 = 385 numbers."""

SCAFFOLD: dict[str, Any] = {
    "client": {"optimizer": {"lrate": 0.1, "modules": ["scaffold-client"]}},
    "server": {"optimizer": {"modules": ["scaffold-server"]}},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"client": {"stack": 4}},
        SCAFFOLD | {"cluster": {"state_memory": 1}},
        {"server": {"aggregator": "median"}, "client": {"stack": 2}},
        {"server": {"aggregator": ["krum", {"num_byzantine": 1}]}},
        {"model": {"personal": ["output"]}, "client": {"stack": 1}},
    ],
    ids=str,
)
def test_a_codec_that_loses_nothing_changes_nothing(changes: Any, tmp_path: Path) -> None:
    """To the bit: all numbers are sent, and buffers and auxiliary variables go as ever."""
    plain = merged(DIGITS, changes)
    whole = merged(plain, {"client": {"transforms": [["top-k", {"fraction": 1.0}]]}})
    expected, found = run(plain, tmp_path / "plain"), run(whole, tmp_path / "whole")
    for name, weights in expected.weights.items():
        assert found.weights[name].tobytes() == weights.tobytes(), name
    for one, other in zip(expected.history, found.history, strict=True):
        assert one["delta_norm"] == other["delta_norm"]
        assert one["aux_bytes"] == other["aux_bytes"]
        assert one["received_bytes"] == other["received_dense_bytes"]


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize(
    ("transforms", "num_bytes"),
    [
        (["clip"], 385 * 4),
        (["cast"], 385 * 2),
        ([["cast", {"dtype": "bfloat16"}]], 385 * 2),
        (["top-k"], 4 * 4 + 4 * 4),  # 3.85 numbers, rounded
        (["clip", ["top-k", {"fraction": 0.5}]], 192 * 4 + 49),  # and a bit for each of 385
    ],
    ids=str,
)
def test_bytes_are_those_of_the_messages(
    transforms: Any, num_bytes: int, stack: int, tmp_path: Path
) -> None:
    changes = {"rounds": 1, "client": {"transforms": transforms, "stack": stack}}
    result = run(merged(DIGITS, changes), tmp_path / "out")
    (record,) = result.history
    assert record["received_bytes"] == 5 * num_bytes
    assert record["received_dense_bytes"] == 5 * 385 * 4
    assert result.summary["ledger"]["received_dense_bytes"] == 5 * 385 * 4


def test_buffers_are_sent_as_they_are_and_counted(tmp_path: Path) -> None:
    """6 * 3 weights and 3 biases, cast; a buffer of six float32 and an integer, sent as float64."""
    plain = {
        "rounds": 1,
        "plugins": ["at_random"],
        "search": [HERE],
        "data": {
            "source": "python",
            "path": "at_random:rows",
            "arguments": {"num": 60, "shape": [6]},
            "partition": {"kind": "iid", "clients": 3},
        },
        "model": {"kind": "python", "path": "at_random:with_buffers", "loss": "cross-entropy"},
        "client": {"optimizer": {"lrate": 0.1}, "transforms": ["cast"]},
    }
    (record,) = run(plain, tmp_path / "out").history
    assert record["received_bytes"] == 3 * (21 * 2 + 6 * 4 + 8)
    assert record["received_dense_bytes"] == 3 * (21 * 4 + 6 * 4 + 8)


def test_the_norms_of_clients_are_those_of_what_they_send(tmp_path: Path) -> None:
    changes = {"rounds": 1, "client": {"transforms": [["clip", {"max_norm": 0.01}], "cast"]}}
    result = run(merged(DIGITS, changes), tmp_path / "out")
    norms = pq.read_table(result.out / "clients.parquet")["delta_norm"].to_numpy()
    np.testing.assert_allclose(norms, 0.01, rtol=1e-3)
    assert result.history[0]["delta_norm"] <= 0.01 * (1 + 1e-3)


# -- what cannot work --------------------------------------------------------------------------


def overflowing(folder: Path, **client: Any) -> dict[str, Any]:
    """One client has targets of 1e7, so that its update is above float16's 65504."""
    inputs, targets = least_squares()
    targets[1] = targets[1] + 1e7
    return scenario(folder, inputs, targets, transforms=["cast"], **client)


@pytest.mark.parametrize("stack", [1, 4])
def test_what_a_cast_makes_infinite_is_told_so(stack: int, tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteUpdateError,
        match=r"client 1's update of round 1 was finite before client.transforms \(cast\), but has "
        "NaN or infinite values after them; put a clip before",
    ):
        run(overflowing(tmp_path, stack=stack), tmp_path / "out")


@pytest.mark.parametrize("stack", [1, 4])
def test_what_a_cast_makes_infinite_is_dropped(stack: int, tmp_path: Path) -> None:
    plain = overflowing(tmp_path, stack=stack, on_nonfinite="drop") | {"rounds": 1}
    (record,) = run(plain, tmp_path / "out").history
    assert (record["clients"], record["dropped"]) == (2, 1)
    assert record["received_bytes"] == 2 * 3 * 2


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (
            {"transforms": ["cast", "clip"]},
            r"client.transforms\[0\]: is 'cast', a codec, but 'clip' follows; put it last",
        ),
        (
            {"transforms": ["top-k"], "keep_state": False},
            r"client.keep_state: is false, but 'top-k' in client.transforms\[0\] needs each "
            "client's state from its last round; remove keep_state, or set feedback: false",
        ),
        (
            {"transforms": [["top-k", {"count": 386}]]},
            r"client.transforms\[0\]: count is 386, but an update has 385 numbers; lower it",
        ),
        (
            {"transforms": [["top-k", {"count": 3, "fraction": 0.5}]]},
            r"client.transforms\[0\]: top-k: fraction is 0.5 and count is 3; give one",
        ),
        (
            {"transforms": ["failing-of-a-test"]},
            r"client.transforms: a first step of training fails: ValueError: no such key",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(client: Any, expected: str) -> None:
    with pytest.raises((ScenarioError, InputError), match=expected):
        build(simfl.load_scenario(merged(DIGITS, {"client": client})))


def test_a_transform_that_cannot_be_stacked_is_named() -> None:
    client = {"transforms": ["one-for-all-of-a-test"], "stack": 4}
    simulation = build(simfl.load_scenario(merged(DIGITS, {"client": client})))
    assert simulation.stacks == (1,)
    (note,) = simulation.notes
    assert "'one-for-all-of-a-test' fails the contract of transforms: row 0 of a stack" in note


@dataclass(frozen=True)
class Failing(UpdateTransform):
    name: ClassVar[str] = "failing-of-a-test"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> tuple[Vector, State]:
        raise ValueError("no such key")


@dataclass(frozen=True)
class OneForAll(UpdateTransform):
    """Scales a stack by one number."""

    name: ClassVar[str] = "one-for-all-of-a-test"

    def apply(self, update: Vector, state: State, context: UpdateContext) -> tuple[Vector, State]:
        return update / float(torch.stack([t.abs().max() for t in update.tensors]).max()), state


def test_an_algorithm_without_deltas_is_refused_with_transforms() -> None:
    changes = {"algorithm": ["ifca", {"models": 2}], "client": {"transforms": ["clip"]}}
    with pytest.raises(
        ScenarioError, match=r"client.transforms: are given, but algorithm 'ifca' sends no deltas"
    ):
        simfl.load_scenario(merged(DIGITS, changes))


@pytest.mark.parametrize("algorithm", ["feddyn", "scaffold", "ditto", "fedrep"])
def test_algorithms_keep_their_bits_with_a_codec_that_loses_nothing(
    algorithm: str, tmp_path: Path
) -> None:
    plain = merged(DIGITS, {"rounds": 2, "client": {"stack": 4}}) | {"algorithm": algorithm}
    whole = merged(plain, {"client": {"transforms": [["top-k", {"fraction": 1.0}]]}})
    expected, found = run(plain, tmp_path / "plain"), run(whole, tmp_path / "whole")
    for name, weights in expected.weights.items():
        assert found.weights[name].tobytes() == weights.tobytes(), name
