"""What a client and the server do in a round, against plain PyTorch and numbers by hand."""

from __future__ import annotations

import copy
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from simfl.aggregation import Aggregator, CenteredClipping, Krum, Mean, Median, TrimmedMean
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.engine import InlineEngine
from simfl.errors import AggregationError, ClientError, NonFiniteUpdateError
from simfl.messages import EvaluationChunk, RoundPlan, RoundReport
from simfl.models import DataShape, ModelSpec, data_shape
from simfl.models.losses import as_loss
from simfl.optimizer import Context, Optimizer, OptiModule, State
from simfl.sampling import UniformInt
from simfl.seeding import derive_seed
from simfl.server import ServerRecipe
from simfl.vector import Vector
from tests.unit.client.client_cases import changed, client_section


@dataclass(frozen=True)
class Given(ModelSpec):
    """A model spec that hands out what the test made; weights start at the module's own."""

    name: ClassVar[str] = "given-by-a-test"
    module: Any = None

    def build(self, shape: DataShape) -> nn.Module:
        return copy.deepcopy(self.module)


def dataset(inputs: np.ndarray, targets: np.ndarray, sizes: list[int]) -> FederatedDataset:
    """Give each client the next so many rows."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    examples = Examples(inputs.astype(np.float32), targets)
    return FederatedDataset(
        train=examples,
        rows=np.arange(offsets[-1]),
        offsets=offsets,
        holdout_offsets=offsets[1:],
        test=examples,
    )


def engine(
    module: nn.Module,
    data: FederatedDataset,
    *,
    loss: Any = "mse",
    work: LocalWork | None = None,
    client: Optimizer | None = None,
    server: Optimizer | None = None,
    chunk_size: int | None = None,
    **options: Any,
) -> InlineEngine:
    shape = data_shape(data.train.inputs, data.train.targets)
    recipe = ClientRecipe(
        spec=Given(module=module),
        shape=shape,
        loss=as_loss(loss),
        metrics=None,
        optimizer=client or Optimizer(lrate=0.1),
        aggregator=Mean(),
        work=client_section(work or LocalWork(epochs=1)),
        seed=0,
    )
    recipe = changed(recipe, **options)
    server_recipe = ServerRecipe(
        spec=recipe.spec,
        shape=shape,
        loss=recipe.loss,
        optimizer=server or Optimizer(lrate=1.0),
        client_optimizer=recipe.optimizer,
        aggregator=recipe.aggregator,
        seed=0,
    )
    return InlineEngine(server_recipe.build(), [ClientHost(recipe, data)], chunk_size=chunk_size)


def run_round(sim: InlineEngine, clients: tuple[int, ...], round: int = 1) -> RoundReport:
    return sim.end_round(sim.train(RoundPlan(round, clients), sim._server.snapshot(round))).report


def regression(num_rows: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_rows, 3)), rng.normal(size=(num_rows, 1)).astype(np.float32)


def test_one_full_batch_step_of_every_client_is_one_gradient_step_on_the_pooled_data() -> None:
    """sum_k n_k/n (w - lr grad_k) = w - lr grad: McMahan et al., 2017, section 2 (FedSGD)."""
    inputs, targets = regression()
    module = nn.Linear(3, 1)
    sim = engine(module, dataset(inputs, targets, [2, 7, 3]))
    report = run_round(sim, (0, 1, 2))

    loss = nn.functional.mse_loss(module(torch.tensor(inputs).float()), torch.tensor(targets))
    loss.backward()
    weights = sim._server.get_weights()
    for name, parameter in module.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        # Sums in another order: a few units in the last place of float32.
        torch.testing.assert_close(weights[name], expected, rtol=1e-5, atol=1e-6)
    assert report.train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert (report.num_clients, report.num_examples, report.num_steps) == (3, 12, 3)


def slope(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss equal to the output: with weight w and input 1 its gradient is 1, whatever w is."""
    return outputs.squeeze(1)


def one_weight() -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    return module


def ones(sizes: list[int]) -> FederatedDataset:
    return dataset(np.ones((sum(sizes), 1)), np.zeros(sum(sizes), np.float32), sizes)


@pytest.mark.parametrize(
    ("weighting", "expected"), [("examples", 7 / 4), ("steps", 5 / 3), ("uniform", 3 / 2)]
)
def test_deltas_are_weighted_as_the_scenario_says(weighting: str, expected: float) -> None:
    """Each step takes 1 off w. Client 0: 3 examples in 2 batches, delta 2; client 1: one, delta 1.

    By examples (3 * 2 + 1 * 1) / 4, by steps (2 * 2 + 1 * 1) / 3, uniform (2 + 1) / 2.
    """
    sim = engine(
        one_weight(),
        ones([3, 1]),
        loss=slope,
        work=LocalWork(epochs=1, batch_size=2),
        client=Optimizer(lrate=1.0),
        weighting=weighting,
    )
    run_round(sim, (0, 1))
    assert sim._server.get_weights()["weight"].item() == pytest.approx(-expected)


def test_a_round_reports_a_row_of_numbers_for_each_client() -> None:
    """The loss is the output, w x: 0, then -1, -2 as each step takes 1 off w. Client 0 has 3 steps
    of one example (0, -1, -2: the mean -1, the delta 3), client 1 has 1 (0; 1)."""
    sim = engine(
        one_weight(),
        ones([3, 1]),
        loss=slope,
        work=LocalWork(epochs=1, batch_size=1),
        client=Optimizer(lrate=1.0),
        chunk_size=1,
    )
    trained = sim.end_round(sim.train(RoundPlan(1, (0, 1)), sim.start()))
    one, other = (trace.report.clients for trace in trained.trace.chunks)
    assert [trace.actor for trace in trained.trace.chunks] == ["inline", "inline"]
    for column, expected in {
        "client": (0, 1),
        "num_examples": (3, 1),
        "num_steps": (3, 1),
        "train_loss": (-1.0, 0.0),
        "first_loss": (0.0, 0.0),
        "last_loss": (-2.0, 0.0),
        "delta_norm": (3.0, 1.0),
    }.items():
        assert (*getattr(one, column), *getattr(other, column)) == expected, column
    assert one.dropped == {}


def test_momentum_is_kept_from_round_to_round_where_the_scenario_says_so() -> None:
    """beta 0.5, gradient 1: v = 1, then 1.5 if kept. Two rounds of one step: w = -2.5, or -2."""
    for keep_state, expected in [(True, -2.5), (False, -2.0)]:
        optimizer = Optimizer(lrate=1.0, modules=[("momentum", {"beta": 0.5})])
        sim = engine(one_weight(), ones([1]), loss=slope, client=optimizer, keep_state=keep_state)
        run_round(sim, (0,), round=1)
        run_round(sim, (0,), round=2)
        assert sim._server.get_weights()["weight"].item() == expected


def test_each_client_keeps_a_momentum_of_its_own() -> None:
    """Client 0 in rounds 1 and 3, client 1 in round 2: each starts from v = 0, then 1.5."""
    optimizer = Optimizer(lrate=1.0, modules=[("momentum", {"beta": 0.5})])
    sim = engine(one_weight(), ones([1, 1]), loss=slope, client=optimizer)
    ends = []
    for round, client in [(1, 0), (2, 1), (3, 0)]:
        run_round(sim, (client,), round=round)
        ends.append(sim._server.get_weights()["weight"].item())
    assert ends == [-1.0, -2.0, -3.5]


def test_a_round_wise_schedule_follows_the_rounds_of_the_run_for_a_new_client_too() -> None:
    """lrate 1, 0.5, 0.25 by round: client 1, new in round 3, steps by 0.25."""
    schedule = ("exponential", {"base": 1.0, "factor": 0.5, "unit": "round"})
    sim = engine(one_weight(), ones([1, 1]), loss=slope, client=Optimizer(lrate=schedule))
    for round, client in [(1, 0), (2, 0), (3, 1)]:
        run_round(sim, (client,), round=round)
    assert sim._server.get_weights()["weight"].item() == -1.75


def test_the_servers_optimizer_takes_the_mean_delta_for_a_gradient() -> None:
    """delta 1 a round, server momentum 0.5, lrate 2: w = -2, then -2 - 2 * 1.5 = -5."""
    server = Optimizer(lrate=2.0, modules=[("momentum", {"beta": 0.5})])
    sim = engine(one_weight(), ones([1]), loss=slope, client=Optimizer(lrate=1.0), server=server)
    run_round(sim, (0,), round=1)
    run_round(sim, (0,), round=2)
    assert sim._server.get_weights()["weight"].item() == -5.0


@pytest.mark.parametrize("weighting", ["examples", "uniform", "steps"])
def test_fedavg_with_unequal_steps_is_what_numpy_computes(weighting: Any) -> None:
    """Least squares with full batches: client i takes K_i steps of gradient descent, and the one
    with K_i = 0 is dropped. The weights of the mean are those of the clients that are left."""
    rng, sizes, steps = np.random.default_rng(1), [6, 3, 5, 4], (7, 4, 1, 0)
    inputs = rng.normal(size=(18, 3)).astype(np.float32)
    targets = rng.normal(size=(18, 1)).astype(np.float32)
    module, ends = nn.Linear(3, 1, bias=False), np.cumsum(sizes)
    nn.init.zeros_(module.weight)
    work = LocalWork(steps=UniformInt(high=7))
    sim = engine(module, dataset(inputs, targets, sizes), work=work, weighting=weighting)

    expected = np.zeros((3, 1))
    for round in (1, 2, 3):
        plan = RoundPlan(round, (0, 1, 2, 3), steps, draws_steps=True)
        report = sim.end_round(sim.train(plan, sim._server.snapshot(round))).report
        assert (report.num_clients, report.num_dropped, report.num_steps) == (3, 1, 12)
        moved, shares = [], []
        for size, end, count in zip(sizes[:3], ends, steps, strict=False):
            a, b, own = inputs[end - size : end], targets[end - size : end], expected.copy()
            for _ in range(count):
                own -= 0.1 * 2 / size * a.T @ (a @ own - b)
            moved.append(own - expected)
            shares.append({"examples": size, "uniform": 1, "steps": count}[weighting])
        expected = expected + np.average(moved, axis=0, weights=shares)
    found = sim._server.get_weights()["weight"].numpy()
    np.testing.assert_allclose(found, expected.T, rtol=1e-5, atol=1e-6)


def batches(work: LocalWork, num_rows: int, *, seed: int = 0, round: int = 1, client: int = 0):
    """Return the rows of each step of one client."""
    plan = work.plan_steps([np.arange(num_rows)], seed=seed, round=round, clients=[client])
    return [plan.rows[step, 0, :size] for step, size in enumerate(plan.sizes[:, 0])]


def test_a_step_limit_counts_on_through_the_epochs() -> None:
    """Three examples in batches of two are 2 + 1: five steps see 2+1+2+1+2 = 8 examples."""
    rows = batches(LocalWork(epochs=None, steps=5, batch_size=2), 3)
    assert [len(batch) for batch in rows] == [2, 1, 2, 1, 2]
    assert sorted(np.concatenate(rows[:2])) == [0, 1, 2]


def test_a_last_batch_that_is_smaller_can_be_left_out_unless_it_is_the_only_one() -> None:
    """Seven examples are 3 + 3 (+ 1); each epoch omits another one."""
    work = LocalWork(epochs=4, batch_size=3, drop_last=True)
    assert [len(batch) for batch in batches(work, 7)] == [3] * 8
    epochs = np.concatenate(batches(work, 7)).reshape(4, 6)
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    assert [len(batch) for batch in batches(work, 6)] == [3] * 8
    assert [len(batch) for batch in batches(work, 2)] == [2] * 4
    assert work.num_steps(np.array([0, 1, 2, 3, 5, 7])).tolist() == [0, 4, 4, 4, 4, 8]


def test_every_epoch_and_round_and_client_has_an_order_of_its_own() -> None:
    work = LocalWork(epochs=2)
    first, second = batches(work, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    others = [batches(work, 50, **key)[0] for key in ({"round": 2}, {"client": 1}, {"seed": 1})]
    assert len({tuple(order) for order in (first, second, *others)}) == 5


@pytest.mark.parametrize(
    "work",
    [
        LocalWork(epochs=3),
        LocalWork(epochs=2, batch_size=4),
        LocalWork(epochs=None, steps=7),
        LocalWork(epochs=2, batch_size=4, drop_last=True),
        LocalWork(epochs=None, steps=7, batch_size=9, drop_last=True),
    ],
    ids=["whole epochs", "batches", "steps", "whole batches", "steps of whole batches"],
)
def test_clients_planned_together_have_the_batches_of_each_alone(work: LocalWork) -> None:
    rows = [np.arange(start, start + count) for start, count in ((0, 11), (20, 8), (30, 0))]
    plan = work.plan_steps(rows, seed=3, round=2, clients=[5, 2**40, 1])
    for c, client in enumerate([5, 2**40, 1]):
        alone = work.draw_batches(rows[c], seed=3, round=2, client=client)
        assert [len(batch) for batch in alone] == plan.sizes[: len(alone), c].tolist()
        assert plan.num_steps[c] == len(alone)
        for step, batch in enumerate(alone):
            assert batch.tolist() == plan.rows[step, c, : len(batch)].tolist()
            filler = plan.rows[step, c, len(batch) :]
            assert (filler == batch[0]).all(), "what fills up a batch is the client's own"


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7])
def test_chunk_sizes_do_not_change_a_bit(chunk_size: int) -> None:
    inputs, targets = regression(40)
    sizes = [3, 9, 4, 6, 8, 5, 5]

    def bits(size: int | None) -> Vector:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 1))
        sim = engine(module, dataset(inputs, targets, sizes), chunk_size=size)
        for round in (1, 2):
            run_round(sim, (1, 4, 3, 5, 6, 2, 0), round=round)
        return sim._server.get_weights()

    assert bits(chunk_size) == bits(None)


def test_runs_in_threads_of_one_process_draw_each_for_itself() -> None:
    """Masks come from torch's one generator: 100 steps each would not miss each other by chance."""
    inputs, targets = regression(40)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 1))

    def bits(_: object = None) -> Vector:
        work = LocalWork(epochs=10, batch_size=4)
        sim = engine(module, dataset(inputs, targets, [40]), work=work)
        run_round(sim, (0,))
        return sim._server.get_weights()

    alone = bits()
    with ThreadPoolExecutor(4) as pool:
        assert all(together == alone for together in pool.map(bits, range(4)))


LIFTED: list[weakref.ref[torch.Tensor]] = []
ALIVE: list[int] = []


@dataclass(frozen=True)
class CountingMean(Mean):
    """Counts how many clients' sums there are at a time."""

    name: ClassVar[str] = "counting-mean-of-a-test"

    def lift(self, delta: Vector, weight: float) -> Vector:
        lifted = super().lift(delta, weight)
        LIFTED.append(weakref.ref(lifted.tensors[0]))
        ALIVE.append(sum(reference() is not None for reference in LIFTED))
        return lifted


def test_a_chunk_of_many_clients_holds_the_sums_of_a_few() -> None:
    """32 clients in order: at most the roots of 16, 8, 4, 2 and 1, and the one being added."""
    sim = engine(one_weight(), ones([1] * 32), loss=slope, aggregator=CountingMean())
    run_round(sim, tuple(range(32)))
    assert len(ALIVE) == 32
    assert max(ALIVE) <= 6


def test_training_leaves_the_global_generator_as_it_was() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))
    sim = engine(module, dataset(*regression(), [12]))
    before = torch.random.get_rng_state()
    run_round(sim, (0,))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_of_torchs_own_differs_where_seeds_agree_in_their_last_32_bits() -> None:
    """Of client 37 in round 152 and client 95 in round 329; the masks of 64 weights are 2^64."""
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
    nn.init.zeros_(module[1].weight)
    data = dataset(np.ones((96, 64)), np.ones((96, 1), np.float32), [1] * 96)
    places = [(152, 37), (329, 95)]
    seeds = [derive_seed(0, "model", round=round, client=client) for round, client in places]
    assert len({seed % 2**32 for seed in seeds}) == 1

    def trained(round: int, client: int) -> Vector:
        sim = engine(module, data)
        run_round(sim, (client,), round=round)
        return sim._server.get_weights()

    assert trained(*places[0]) != trained(*places[1])
    assert trained(*places[0]) == trained(*places[0])


def test_buffers_are_averaged_by_examples_and_frozen_weights_stay() -> None:
    """BatchNorm's running mean after one batch is 0.1 * the batch's mean (momentum 0.1).

    Clients hold 1 row pair of mean 1 and 2 pairs of mean 4: 0.1 * (2 * 1 + 4 * 4) / 6 = 0.3.
    """
    inputs = np.array([[0.0], [2.0], [3.0], [5.0], [3.0], [5.0]])
    targets = np.zeros((6, 1), np.float32)
    module = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    module[1].weight.requires_grad_(False)
    sim = engine(module, dataset(inputs, targets, [2, 4]))
    run_round(sim, (1, 0))
    weights = sim._server.get_weights()
    assert weights["0.running_mean"].item() == pytest.approx(0.3)
    assert weights["0.num_batches_tracked"].item() == 1
    assert weights["0.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(weights["1.weight"], module[1].weight)
    assert not torch.equal(weights["1.bias"], module[1].bias)


@dataclass(frozen=True)
class FailOn(OptiModule):
    """Raises, or sends NaN, for one client."""

    name: ClassVar[str] = "fail-on-a-client-in-a-test"
    client: int = 0
    sends_nan: bool = False

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if context.clients != (self.client,):
            return gradients, state
        if self.sends_nan:
            return gradients * float("nan"), state
        raise ValueError("broken sensor")


def test_a_clients_exception_carries_its_id_its_round_and_its_traceback() -> None:
    client = Optimizer(lrate=1.0, modules=[FailOn(client=1)])
    sim = engine(one_weight(), ones([1, 1]), loss=slope, client=client)
    with pytest.raises(
        ClientError, match=r"client 1 failed in round 5: ValueError: broken sensor"
    ) as e:
        run_round(sim, (0, 1), round=5)
    assert (e.value.client, e.value.round) == (1, 5)
    assert 'raise ValueError("broken sensor")' in e.value.client_traceback


def test_a_client_that_raises_is_left_out_and_counted_where_the_scenario_says_so() -> None:
    client = Optimizer(lrate=1.0, modules=[FailOn(client=1)])
    sim = engine(one_weight(), ones([1, 4]), loss=slope, client=client, on_failure="drop")
    report = run_round(sim, (1, 0))
    assert (report.num_clients, report.num_dropped, report.num_examples) == (1, 1, 1)
    assert sim._server.get_weights()["weight"].item() == -1.0


def test_an_update_with_nan_ends_the_run_with_the_clients_id() -> None:
    client = Optimizer(lrate=1.0, modules=[FailOn(client=1, sends_nan=True)])
    sim = engine(one_weight(), ones([1, 1]), loss=slope, client=client)
    with pytest.raises(
        NonFiniteUpdateError, match=r"client 1 sent .* in round 3.*on_nonfinite: drop"
    ):
        run_round(sim, (0, 1), round=3)


def test_a_dropped_update_is_counted_and_has_no_part_in_the_mean() -> None:
    client = Optimizer(lrate=1.0, modules=[FailOn(client=1, sends_nan=True)])
    sim = engine(one_weight(), ones([1, 4]), loss=slope, client=client, on_nonfinite="drop")
    report = run_round(sim, (1, 0))
    assert (report.num_clients, report.num_dropped, report.num_examples) == (1, 1, 1)
    assert sim._server.get_weights()["weight"].item() == -1.0


def test_a_round_in_which_all_are_dropped_is_an_error() -> None:
    client = Optimizer(lrate=1.0, modules=[FailOn(client=0, sends_nan=True)])
    sim = engine(one_weight(), ones([1]), loss=slope, client=client, on_nonfinite="drop")
    with pytest.raises(AggregationError, match=r"every one of the 1 clients .* to see why"):
        run_round(sim, (0,))


class HalfWeight(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1, bias=False, dtype=torch.float16)
        nn.init.zeros_(self.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs.half()).float()


def test_half_precision_deltas_add_up_where_float16_would_overflow() -> None:
    """Each delta is 30000, and 3 + 1 examples make a sum of 120000; float16 ends at 65504."""
    sim = engine(HalfWeight(), ones([3, 1]), loss=slope, client=Optimizer(lrate=30000.0))
    report = run_round(sim, (0, 1))
    weight = sim._server.get_weights()["weight"]
    assert (weight.item(), weight.dtype) == (-30000.0, torch.float16)
    assert report.delta_norm == 30000.0


class OddBuffers(nn.Linear):
    """Counts from above 2^53, and sets flags, one of them where inputs are positive."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.register_buffer("count", torch.tensor(2**62 + 1))
        self.register_buffer("small", torch.tensor(250, dtype=torch.uint8))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("flag", torch.tensor(False))
        self.register_buffer("phases", torch.tensor([1j, 2 + 1j]))
        self.register_buffer("hidden", torch.tensor([0.0, -torch.inf]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count += 3
            self.small += 2
            self.flag |= bool(inputs.sum() > 0)
        return super().forward(inputs)


@pytest.mark.parametrize("signs", [(1, 1, -1), (-1, 1, -1)])
def test_buffers_of_integers_booleans_and_masks_come_back_exact(signs: tuple[int, ...]) -> None:
    inputs = np.array(signs, np.float32)[:, None]
    data = dataset(inputs, np.zeros((3, 1), np.float32), [1, 1, 1])
    sim = engine(OddBuffers(), data)
    start = sim._server.get_weights()
    run_round(sim, (0, 1, 2))
    weights = sim._server.get_weights()
    assert weights["count"].item() == 2**62 + 4
    assert weights["small"].item() == 252
    assert weights["flag"].item() == (sum(signs) > 0)  # what most clients have
    for name in ("mask", "phases", "hidden"):
        assert torch.equal(weights[name], start[name])
    assert [weights[name].dtype for name in weights] == [start[name].dtype for name in start]


class Remembering(nn.Linear):
    """Outputs w + the number of former calls, kept as ``how`` says; the gradient is that of w."""

    def __init__(self, how: str) -> None:
        super().__init__(1, 1, bias=False)
        nn.init.zeros_(self.weight)
        self.how = how
        if how == "buffer":
            self.register_buffer("calls", torch.zeros(()), persistent=False)
        elif how == "empty buffer":
            self.register_buffer("calls", None, persistent=False)
        elif how != "new attribute":
            self.calls: Any = {"number": 0, "tensor": torch.zeros(()), "list": []}[how]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        calls = getattr(self, "calls", None)
        if self.how == "list":
            self.calls.append(1)
            return super().forward(inputs) + len(self.calls) - 1
        if self.how in ("buffer", "tensor"):
            self.calls += 1
            return super().forward(inputs) + self.calls.clone() - 1
        self.calls = (0 if calls is None else calls) + torch.ones(())
        return super().forward(inputs) + (0 if calls is None else calls)


@pytest.mark.parametrize(
    "how", ["buffer", "empty buffer", "number", "tensor", "list", "new attribute"]
)
def test_what_a_module_remembers_leaks_neither_to_another_client_nor_to_an_evaluation(
    how: str,
) -> None:
    """Each client's losses are 0 and then 1 - 1, as w falls by 1 a step and the calls rise."""
    sim = engine(
        Remembering(how),
        ones([2, 2, 2]),
        loss=slope,
        work=LocalWork(epochs=1, batch_size=1),
        client=Optimizer(lrate=1.0),
    )
    for round in (1, 2):
        trained = sim.end_round(sim.train(RoundPlan(round, (0, 1, 2)), sim._server.snapshot(round)))
        (trace,) = trained.trace.chunks
        before = -2.0 * (round - 1)
        assert trace.report.clients.first_loss.tolist() == [before] * 3
        assert trace.report.clients.last_loss.tolist() == [before] * 3
        items = sim.evaluate(EvaluationChunk("test", ((0,), (0,))), sim._server.snapshot(1))
        assert [item["loss"][0] for item in items] == [6 * (before - 2.0)] * 2


@dataclass(frozen=True)
class Spoiling(Mean):
    """Divides zero by zero."""

    name: ClassVar[str] = "spoiling-in-a-test"

    def finish(self, total: Vector, weight: float) -> Vector:
        return super().finish(total, weight) * float("nan")


@pytest.mark.parametrize("round", [1, 9])
def test_weights_that_the_aggregator_spoils_end_the_round_and_blame_no_client(round: int) -> None:
    sim = engine(one_weight(), ones([1]), loss=slope, aggregator=Spoiling())
    with pytest.raises(
        AggregationError, match=f"^round {round}: server.aggregator 'spoiling-in-a-test'"
    ):
        run_round(sim, (0,), round=round)


def test_weights_that_the_servers_step_spoils_end_the_round_and_blame_no_client() -> None:
    """The delta is 2, and float32 ends at 3.4e38."""
    huge = Optimizer(lrate=3e38)
    sim = engine(one_weight(), ones([1]), loss=slope, client=Optimizer(lrate=2.0), server=huge)
    with pytest.raises(AggregationError, match=r"^round 2: server\.optimizer: NaN or infinite"):
        run_round(sim, (0,), round=2)


def test_buffers_that_the_aggregator_spoils_end_the_round() -> None:
    inputs, targets = regression()
    module = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))
    sim = engine(module, dataset(inputs, targets, [12]), aggregator=SpoilingBuffers())
    with pytest.raises(AggregationError, match=r"^round 1: server\.aggregator"):
        run_round(sim, (0,))


@dataclass(frozen=True)
class SpoilingBuffers(Mean):
    """Spoils what is averaged besides the trained weights."""

    name: ClassVar[str] = "spoiling-buffers-in-a-test"

    def finish(self, total: Vector, weight: float) -> Vector:
        delta = super().finish(total, weight)
        return delta | delta.select(["0.running_mean"]) * float("inf")


def test_a_robust_rule_sees_every_delta() -> None:
    """Deltas 1, 2 and 100 (by their numbers of steps): the median is 2."""
    sim = engine(
        one_weight(),
        ones([1, 2, 100]),
        loss=slope,
        work=LocalWork(epochs=1, batch_size=1),
        client=Optimizer(lrate=1.0),
        aggregator=Median(),
        chunk_size=1,
    )
    run_round(sim, (2, 1, 0))
    assert sim._server.get_weights()["weight"].item() == -2.0


class Counting(nn.Module):
    """One weight, and a count of the examples that were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = one_weight()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += len(inputs)
        return self.layer(inputs)


def test_counts_have_no_part_in_the_distances_of_krum() -> None:
    """Deltas 1, 3, 5, 6 and 20 after 10, 28, 41, 60 and 191 examples.

    Of the two nearest: 20, 8, 5, 10 and more, so the 5 is chosen. With the counts 3 would be the
    nearest: (3 - 5)² + (28 - 41)² + (3 - 1)² + (28 - 10)² = 501 against 173 + 362 of 5.
    """
    sim = engine(
        Counting(),
        ones([10, 28, 41, 60, 191]),
        loss=slope,
        work=LocalWork(epochs=1, batch_size=10),
        client=Optimizer(lrate=1.0),
        aggregator=Krum(num_byzantine=1),
    )
    run_round(sim, (4, 3, 2, 1, 0))
    weights = sim._server.get_weights()
    assert weights["layer.weight"].item() == pytest.approx(-5.0)
    assert weights["seen"].item() == 41


def test_a_robust_rule_whose_cohort_shrank_too_far_says_so_in_a_line() -> None:
    """Five are enough for Krum, and four, of which the fifth was dropped, are not."""
    sim = one_of_five_dropped(Krum(num_byzantine=1))
    with pytest.raises(AggregationError, match=r"there are 4\b.*raise client\.per_round") as caught:
        run_round(sim, (0, 1, 2, 3, 4))
    assert "\n" not in str(caught.value)


def test_a_trimmed_mean_goes_on_with_a_cohort_that_shrank() -> None:
    """Deltas are 1, 2, 3 and 9, and client 3 is dropped: the mean of 2 and 3."""
    sim = one_of_five_dropped(TrimmedMean(trim=0.2))
    run_round(sim, (0, 1, 2, 3, 4))
    assert sim._server.get_weights()["weight"].item() == pytest.approx(-2.5)


def one_of_five_dropped(rule: Aggregator) -> InlineEngine:
    """Return an engine whose clients' deltas are 1, 2, 3, NaN and 9."""
    inputs = np.array([[1.0], [2.0], [3.0], [np.nan], [9.0]])
    return engine(
        one_weight(),
        dataset(inputs, np.zeros(5, np.float32), [1] * 5),
        loss=slope,
        client=Optimizer(lrate=1.0),
        aggregator=rule,
        on_nonfinite="drop",
    )


def test_scaffold_with_full_participation_has_the_mean_control_variate_on_the_server() -> None:
    """Gradient 1 at every client: each c_i+ = 1, so c = 1, and the correction c - c_i is 0."""
    sim = engine(
        one_weight(),
        ones([1, 1]),
        loss=slope,
        client=Optimizer(lrate=1.0, modules=["scaffold-client"]),
        server=Optimizer(lrate=1.0, modules=[("scaffold-server", {"num_clients": 2})]),
    )
    run_round(sim, (0, 1), round=1)
    assert sim._server.snapshot(2).broadcast.aux["scaffold"]["state"]["weight"].item() == 1.0
    run_round(sim, (0, 1), round=2)
    assert sim._server.get_weights()["weight"].item() == -2.0


@pytest.mark.parametrize("weighting", ["examples", "steps", "uniform"])
def test_scaffold_ends_at_the_optimum_of_the_uniform_mean_however_clients_are_weighted(
    weighting: str,
) -> None:
    """Client 0 has three examples with optimum 0, client 1 one with 4: by examples it would be 1.

    Corrected steps of client i are along g_i + c - c_i, which is c where w stands still: clients
    agree, and their weights have no part in where. c = 0 is the optimum of the mean over clients.
    """
    sim = engine(
        one_weight(),
        dataset(np.ones((4, 1)), np.array([[0], [0], [0], [4]], np.float32), [3, 1]),
        work=LocalWork(steps=2),
        client=Optimizer(lrate=0.1, modules=["scaffold-client"]),
        server=Optimizer(lrate=1.0, modules=[("scaffold-server", {"num_clients": 2})]),
        weighting=weighting,
    )
    for round in range(1, 101):
        run_round(sim, (0, 1), round=round)
    assert sim._server.get_weights()["weight"].item() == pytest.approx(2.0, abs=1e-5)


def test_evaluation_sums_add_up_over_batches_and_clients() -> None:
    inputs, targets = regression(7)
    module = nn.Linear(3, 1)
    sim = engine(module, dataset(inputs, targets, [2, 5]), evaluation_batch_size=3)
    parts = sim.evaluate(EvaluationChunk("test", ((0,), (1,), (2,))), sim.start())
    assert [part["loss"][1] for part in parts] == [3, 3, 1]
    outputs = module(torch.tensor(inputs).float())
    expected = nn.functional.mse_loss(outputs, torch.tensor(targets)).item()
    assert sum(part["loss"][0] for part in parts) / 7 == pytest.approx(expected, rel=1e-5)
    clients = sim.evaluate(EvaluationChunk("clients", ((1,),)), sim.start())
    expected = nn.functional.mse_loss(outputs[2:], torch.tensor(targets[2:])).item()
    assert clients[0]["loss"][0] / clients[0]["loss"][1] == pytest.approx(expected, rel=1e-5)


def test_a_server_in_anothers_place_goes_on_with_the_same_bits() -> None:
    """Adam on the server: its moments are in the snapshot, and so the next round is the same."""
    inputs, targets = regression()

    def fresh() -> InlineEngine:
        torch.manual_seed(0)
        server = Optimizer(lrate=0.1, modules=["adam"])
        return engine(nn.Linear(3, 1), dataset(inputs, targets, [4, 8]), server=server)

    undisturbed = fresh()
    handle = undisturbed.end_round(
        undisturbed.train(RoundPlan(1, (1, 0)), undisturbed.start())
    ).handle
    handle = undisturbed.end_round(undisturbed.train(RoundPlan(2, (1, 0)), handle)).handle
    undisturbed.end_round(undisturbed.train(RoundPlan(3, (1, 0)), handle))
    other = fresh()
    other._server.restore(handle)
    other.end_round(other.train(RoundPlan(3, (1, 0)), handle))
    assert other._server.get_weights() == undisturbed._server.get_weights()


# -- rounds without clients, and aggregators with a state -----------------------------------------


def test_a_round_without_clients_takes_no_step_but_counts_for_the_schedule() -> None:
    """The rate is 1, 1/2, 1/4: 1 is taken off in round 1, nothing in round 2, 1/4 in round 3."""
    rate = ("exponential", {"base": 1.0, "factor": 0.5, "unit": "round"})
    sim = engine(
        one_weight(),
        ones([1]),
        loss=slope,
        client=Optimizer(lrate=1.0),
        server=Optimizer(lrate=rate, modules=[("momentum", {"beta": 0.5})]),
    )
    run_round(sim, (0,), 1)
    weight, before = sim._server.get_weights(), sim._server.snapshot(2)
    report = run_round(sim, (), 2)
    assert sim._server.get_weights() == weight
    assert sim._server.snapshot(3).state.optimizer.modules == before.state.optimizer.modules
    assert (report.num_clients, report.num_dropped, report.delta_norm) == (0, 0, 0.0)
    assert (report.sent_bytes, report.received_bytes) == (0, 0)
    assert np.isnan(report.train_loss)
    run_round(sim, (0,), 3)  # momentum makes 1 + 1/2 of the delta 1
    found = sim._server.get_weights()["weight"].item()
    assert found == weight["weight"].item() - 1.5 * 0.25


def centres(sim: InlineEngine, round: int) -> tuple[float, float]:
    """Return what is announced, and what is kept."""
    snapshot = sim._server.snapshot(round)
    announced, kept = snapshot.broadcast.aggregator, snapshot.state.aggregator
    return announced["centre"]["weight"].item(), kept["centre"]["weight"].item()


def clipping() -> InlineEngine:
    """Each step takes 1 off, so deltas are 4 and 1 in every round."""
    return engine(
        one_weight(),
        ones([4, 1]),
        loss=slope,
        work=LocalWork(epochs=1, batch_size=1),
        client=Optimizer(lrate=1.0),
        aggregator=CenteredClipping(radius=1.0),
    )


def test_an_aggregators_state_goes_round_by_round_to_clients_and_snapshots() -> None:
    """Deltas 4 and 1, radius 1: from 0 the centre moves by (1 + 1)/2 to 1, then by (1 + 0)/2 to
    1.5, stays in a round without clients, and moves by (1 - .5)/2 to 1.75."""
    sim = clipping()
    expected = [0.0, 1.0, 1.5, 1.5, 1.75]
    for round, centre in enumerate(expected, start=1):
        assert centres(sim, round) == (centre, centre)
        run_round(sim, () if round == 3 else (0, 1), round)


def test_a_server_that_is_restored_goes_on_with_the_aggregators_state() -> None:
    sim, other = clipping(), clipping()
    run_round(sim, (0, 1), 1)
    other._server.restore(sim._server.snapshot(2))
    for server in (sim, other):
        run_round(server, (0, 1), 2)
    assert centres(other, 3) == centres(sim, 3) == (1.5, 1.5)
    assert other._server.get_weights() == sim._server.get_weights()


def test_what_an_aggregator_announces_counts_as_sent() -> None:
    """A weight and a centre of 4 bytes each, to two clients."""
    assert run_round(clipping(), (0, 1)).sent_bytes == 2 * (4 + 4)
    plain = engine(one_weight(), ones([4, 1]), loss=slope)
    assert run_round(plain, (0, 1)).sent_bytes == 2 * 4
