"""Cohorts: drawn from the seed and the round alone, in the order of the reduction."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from simfl.errors import ConfigError
from simfl.messages import ClientReports, RoundPlan
from simfl.sampling import (
    All,
    DataFree,
    FixedSize,
    Memory,
    Past,
    Poisson,
    PoissonSampling,
    Pool,
    PowerOfChoice,
    Proportional,
    RoundRobin,
    Sampler,
    Uniform,
    Weighted,
    begin_past,
    learn_from,
    plan_round,
)
from simfl.states import decode_file, encode_pieces


def plan(
    sampler: Sampler,
    counts: list[int],
    size: int,
    *,
    round: int = 1,
    seed: int = 0,
    past: Past | None = None,
    ask: Callable[[Any], Any] | None = None,
    participants: Any = None,
) -> RoundPlan:
    examples = np.array(counts)
    return plan_round(
        sampler,
        num_examples=examples,
        num_steps=examples,
        size=size,
        seed=seed,
        round=round,
        past=past,
        ask=ask,
        participants=participants,
    )


@pytest.mark.parametrize("sampler", [Uniform(), Weighted(), Proportional()])
def test_a_cohort_holds_different_clients_and_depends_on_seed_and_round_alone(
    sampler: Sampler,
) -> None:
    counts = list(range(1, 101))
    cohort = plan(sampler, counts, 10, round=3)
    assert len(set(cohort.clients)) == 10
    assert cohort == plan(sampler, counts, 10, round=3)
    assert cohort.clients != plan(sampler, counts, 10, round=4).clients
    assert cohort.clients != plan(sampler, counts, 10, round=3, seed=1).clients


def test_the_longest_local_work_comes_first_then_the_lower_id() -> None:
    assert plan(Uniform(), [5, 9, 5, 7], 4).clients == (1, 3, 0, 2)


def test_uniform_draws_every_client_equally_often() -> None:
    """2,000 rounds of 2 out of 10: 400 each; 5 standard deviations of B(2000, 0.2) are 90."""
    drawn = [
        client for r in range(2000) for client in plan(Uniform(), [1] * 10, 2, round=r).clients
    ]
    counts = np.bincount(drawn, minlength=10)
    assert np.abs(counts - 400).max() < 90


def test_weighted_draws_one_client_in_proportion_to_its_examples() -> None:
    """4,000 draws with p = 3/4: 3,000; 5 standard deviations are 137."""
    drawn = [plan(Weighted(), [30, 10], 1, round=r).clients[0] for r in range(4000)]
    assert abs(drawn.count(0) - 3000) < 137


def test_weighted_draws_one_after_another_from_those_that_are_left() -> None:
    """Two of three with 2, 1 and 1: the first is drawn with 1/2 + 2 · 1/4 · 2/3 = 5/6, and not 1.

    Of 4,000 rounds 3,333, with a standard deviation of 24, times five.
    """
    drawn = sum(0 in plan(Weighted(), [2, 1, 1], 2, round=r).clients for r in range(4000))
    assert abs(drawn - 3333) < 120


class Scripted:
    """A generator whose draws the test sets."""

    def __init__(self, order: tuple[int, ...], start: int) -> None:
        self.order, self.start, self.num_starts = order, start, 1

    def permutation(self, size: int) -> np.ndarray:
        return np.array(self.order)

    def integers(self, high: int) -> int:
        self.num_starts = high
        return self.start


def cohorts(counts: list[int], size: int, order: tuple[int, ...]) -> list[list[int]]:
    """Return the cohort from each start that there is to draw, in this order of the clients."""
    drawn: list[list[int]] = []
    rng: Any = Scripted(order, 0)
    while len(drawn) < rng.num_starts:
        rng.start = len(drawn)
        drawn.append(Proportional().sample(np.array(counts), size, rng=rng).tolist())
    return drawn


def inclusion(counts: list[int], size: int) -> list[Fraction]:
    """Return each client's probability, over all orders and starts."""
    orders = list(itertools.permutations(range(len(counts))))
    included = [Fraction(0)] * len(counts)
    for order in orders:
        drawn = cohorts(counts, size, order)
        for cohort in drawn:
            assert len(set(cohort)) == len(cohort) == size
            for client in cohort:
                included[client] += Fraction(1, len(drawn) * len(orders))
    return included


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([3, 1, 4, 2], 2, ["6/10", "2/10", "8/10", "4/10"]),
        ([3, 1, 4, 2], 1, ["3/10", "1/10", "4/10", "2/10"]),
        # 2 · 10 / 14 is more than 1: the first is certain, and one is drawn of the others.
        ([10, 1, 1, 2], 2, ["1", "1/4", "1/4", "2/4"]),
        # 3 · 6 / 13 > 1; of the rest 2 · 5 / 7 > 1; of the rest 1 · 1 / 2.
        ([6, 5, 1, 1], 3, ["1", "1", "1/2", "1/2"]),
        ([2, 2, 2, 2], 4, ["1", "1", "1", "1"]),
        # One has examples; any of the others is as good to be second.
        ([5, 0, 0, 0], 2, ["1", "1/3", "1/3", "1/3"]),
    ],
)
def test_proportional_includes_each_client_with_exactly_its_share_of_the_cohort(
    counts: list[int], size: int, expected: list[str]
) -> None:
    assert inclusion(counts, size) == [Fraction(share) for share in expected]


RETURNED: list[Any] = []


@dataclass(frozen=True)
class Returning(Sampler):
    """Returns what the test has set."""

    def sample(self, num_examples: Any, size: int, *, rng: Any) -> Any:
        return RETURNED[-1]


# Named only now: a class that has a name when it is made registers itself for all tests.
Returning.name = "returning"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0], "returned 1 clients, but 3 take part"),
        (np.arange(4), "returned 4 clients, but 3 take part"),
        ([2, 0, 2], "returned client 2 2 times"),
        ([0, 1, 3], "returned client 3, but clients are numbered from 0 to 2"),
        ([-1, 0, 1], "returned client -1, but"),
        ([0.0, 1.0, 2.0], "returned float64 of shape [3]"),
        (np.array([True, False, True]), "returned bool of shape [3]"),
        (np.zeros((3, 1), int), "returned int64 of shape [3, 1]"),
        (None, "returned object of shape []"),
        ([[0], [1, 2]], "returned list"),
    ],
    ids=str,
)
def test_what_a_sampler_returns_is_checked(returned: Any, message: str) -> None:
    """Where all three of the population take part, too."""
    RETURNED.append(returned)
    with pytest.raises(ConfigError) as caught:
        plan(Returning(), [1, 1, 1], 3)
    assert str(caught.value).startswith("sampler 'returning' " + message)
    assert "\n" not in str(caught.value)


def test_a_client_that_is_drawn_twice_is_reported() -> None:
    RETURNED.append([1, 1])
    with pytest.raises(ConfigError, match="returned client 1 2 times"):
        plan(Returning(), [1, 1, 1], 2)


def test_a_sampler_may_return_a_list_of_ids_and_any_kind_of_integer() -> None:
    for returned in ([2, 0], np.array([2, 0], np.uint8), (np.int32(2), 0)):
        RETURNED.append(returned)
        assert plan(Returning(), [5, 5, 5], 2).clients == (0, 2)


# -- cohorts of any size --------------------------------------------------------------------------


class AnyNumber(Sampler):
    """Returns what the test has set, however many."""

    def select(self, pool: Any, memory: Any, size: int, rng: Any) -> Any:
        return RETURNED[-1]


AnyNumber.name = "any-number"


@pytest.mark.parametrize("returned", [[], [1], [0, 2, 1], np.array([2, 0])])
def test_a_sampler_may_select_any_number_of_clients_and_none(returned: Any) -> None:
    RETURNED.append(returned)
    drawn = plan(AnyNumber(), [1, 1, 1], 2)
    assert drawn.clients == tuple(sorted(returned))
    assert drawn.num_positions == len(returned)


def test_of_any_number_a_client_that_is_drawn_twice_is_named() -> None:
    RETURNED.append([0, 2, 2])
    with pytest.raises(ConfigError, match=r"^sampler 'any-number' returned client 2 2 times; it"):
        plan(AnyNumber(), [1, 1, 1], 2)


def test_poisson_draws_each_client_independently() -> None:
    """Of 4 clients with q = 1/4, each of the 16 sets has q^k (1 - q)^(4 - k): chi-square of 4,000
    rounds with 15 degrees of freedom, 99.9 % quantile."""
    sets = [
        sum(1 << client for client in plan(PoissonSampling(), [1, 2, 3, 4], 1, round=r).clients)
        for r in range(4000)
    ]
    sizes = np.array([bin(number).count("1") for number in range(16)])
    expected = 4000 * 0.25**sizes * 0.75 ** (4 - sizes)
    counts = np.bincount(sets, minlength=16)
    assert ((counts - expected) ** 2 / expected).sum() < 37.7


def test_poisson_of_the_whole_population_draws_all() -> None:
    assert plan(PoissonSampling(), [1] * 50, 50).clients == tuple(range(50))


def test_round_robin_takes_turns_and_starts_again() -> None:
    cohorts = [plan(RoundRobin(), [1] * 5, 2, round=r).clients for r in range(1, 6)]
    assert cohorts == [(0, 1), (2, 3), (0, 4), (1, 2), (3, 4)]


def test_mechanisms_are_those_that_accountants_know() -> None:
    def of(sampler: Sampler, size: int) -> Any:
        return sampler.mechanism(size=size, population=50)

    assert of(PoissonSampling(), 10) == Poisson(0.2)
    assert of(Uniform(), 10) == FixedSize(10, 50)
    assert of(Uniform(), 50) == of(RoundRobin(), 50) == All()
    assert of(RoundRobin(), 10) == DataFree()
    for sampler in (Weighted(), Proportional(), PowerOfChoice(candidates=20)):
        assert of(sampler, 10) is None


# -- what a sampler remembers ---------------------------------------------------------------------


def reports(losses: dict[int, float], *, dropped: tuple[int, ...] = ()) -> ClientReports:
    """Return the reports of clients by their training losses."""
    ids, numbers = np.array(list(losses)), np.array(list(losses.values()))
    return ClientReports(
        client=ids,
        num_examples=ids,
        num_steps=ids,
        train_loss=numbers,
        first_loss=numbers,
        last_loss=numbers,
        delta_norm=numbers,
        seconds=numbers,
        dropped=dict.fromkeys(dropped, "by the test"),
    )


def test_power_of_choice_takes_the_new_clients_and_then_the_largest_losses() -> None:
    """All 5 are candidates: 3 and 4 are new; of the others 1 has the largest loss, then 0."""
    sampler = PowerOfChoice(candidates=5)
    past = learn_from(sampler, begin_past(sampler, 5), 1, reports({0: 2.0, 1: 3.0, 2: 1.0}))
    drawn = [set(plan(sampler, [1] * 5, k, round=2, past=past).clients) for k in (2, 3, 4)]
    assert drawn == [{3, 4}, {3, 4, 1}, {3, 4, 1, 0}]


def test_power_of_choice_draws_its_candidates_in_proportion_to_their_examples() -> None:
    """One candidate of clients with 1, 2 and 5 examples: chi-square, 99.9 % quantile for 2."""
    sampler = PowerOfChoice(candidates=1)
    drawn = [plan(sampler, [1, 2, 5], 1, round=r).clients[0] for r in range(2000)]
    expected = np.array([250.0, 500.0, 1250.0])
    assert ((np.bincount(drawn) - expected) ** 2 / expected).sum() < 13.8


def test_power_of_choice_prefers_a_loss_only_among_its_candidates() -> None:
    """Two of three are candidates; 0 has the largest loss and is drawn if it is one of them: with
    probability 2/3. 5 standard deviations of B(900, 2/3) are 71."""
    sampler = PowerOfChoice(candidates=2)
    past = learn_from(sampler, begin_past(sampler, 3), 1, reports({0: 3.0, 1: 2.0, 2: 1.0}))
    drawn = [plan(sampler, [1, 1, 1], 1, round=r, past=past).clients[0] for r in range(900)]
    assert abs(drawn.count(0) - 600) < 71
    assert drawn.count(2) == 0


@pytest.mark.parametrize("loss", ["last", "current"])
def test_fewer_candidates_than_clients_of_a_round_are_refused(loss: Any) -> None:
    with pytest.raises(ConfigError, match="draws 2 candidates, but 3 clients take part in a round"):
        plan(PowerOfChoice(candidates=2, loss=loss), [1] * 5, 3)


def test_power_of_choice_asks_its_candidates_and_takes_the_largest_present_losses() -> None:
    """Clients 1, 4, 5 and 7 may train, and all are candidates; 5 has the loss inf and 7 has none.
    The last losses do not count."""
    sampler = PowerOfChoice(candidates=4, loss="current")
    past = learn_from(sampler, begin_past(sampler, 4), 1, reports({0: 2.0, 1: 3.0, 2: 1.0}))
    present = np.full(9, np.nan)
    present[[1, 4, 5]] = 0.5, 0.25, np.inf
    asked: list[int] = []

    def ask(clients: Any) -> Any:
        asked.extend(clients.tolist())
        return present[clients]

    plans = [
        plan(sampler, [1] * 9, size, past=past, ask=ask, participants=np.array([1, 4, 5, 7]))
        for size in (1, 2, 3, 4)
    ]
    assert [drawn.clients for drawn in plans] == [(5,), (1, 5), (1, 4, 5), (1, 4, 5, 7)]
    assert [drawn.num_asked for drawn in plans] == [3, 2, 1, 0]
    assert sorted(asked) == sorted([1, 4, 5, 7] * 4)


def test_only_candidates_are_asked_and_their_draw_is_the_one_of_the_last_losses() -> None:
    """The same generator draws the same three of ten, of which one takes part."""
    asked: list[list[int]] = []

    def ask(clients: Any) -> Any:
        asked.append(clients.tolist())
        return -clients.astype(float)

    present = plan(PowerOfChoice(candidates=3, loss="current"), [5] * 10, 1, ask=ask)
    assert present.clients == (min(asked[0]),)
    assert plan(PowerOfChoice(candidates=3), [5] * 10, 3).clients == tuple(sorted(asked[0]))


@pytest.mark.parametrize(("returned", "what"), [([0, 5], "client 5, but"), ([1, 1], "client 1 2")])
def test_which_clients_a_sampler_asks_is_checked(returned: list[int], what: str) -> None:
    class Asking(Sampler):
        def asks(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Any:
            return returned

        def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Any:
            raise AssertionError("it is not called")

    Asking.name = "asking"
    with pytest.raises(ConfigError, match=rf"^sampler 'asking': asks\(\) returned {what}"):
        plan(Asking(), [1] * 5, 2, ask=len)


def test_the_pool_has_the_last_round_and_loss_of_each_client() -> None:
    """A client that was dropped has taken part, but its loss does not count."""
    past = Past.none(4).after(1, reports({0: 2.0, 2: 1.0})).after(3, reports({2: 9.0, 3: 4.0}))
    past = past.after(4, reports({0: 8.0, 3: 7.0}, dropped=(3,)))
    pool = past.pool(5, num_examples=np.arange(4), num_steps=np.arange(4))
    assert pool.last_round.tolist() == [4, 0, 3, 4]
    np.testing.assert_array_equal(pool.last_loss, [8.0, np.nan, 9.0, 4.0])
    assert np.isnan(pool.expected_seconds).all()
    for column in (pool.last_round, pool.last_loss):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


class Rarest(Sampler):
    """Takes the clients that were drawn least often, and keeps what it has learnt."""

    def init(self, population: int) -> Memory:
        return {"times": np.zeros(population, np.int32), "is_new": np.ones(population, bool)}

    def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Any:
        return np.argsort(memory["times"], kind="stable")[:size]

    def learn(self, memory: Memory, feedback: ClientReports) -> Memory:
        assert np.isnan(feedback.seconds).all()
        times, is_new = memory["times"].copy(), memory["is_new"].copy()
        times[feedback.client] += 1
        is_new[feedback.client] = False
        return {"times": times, "is_new": is_new}


Rarest.name = "rarest"


def test_a_sampler_remembers_and_a_checkpoint_gives_it_its_memory_back() -> None:
    sampler = Rarest()
    past, cohorts = begin_past(sampler, 5), []
    for round in range(1, 6):
        drawn = plan(sampler, [1] * 5, 3, round=round, past=past).clients
        cohorts.append(drawn)
        past = learn_from(sampler, past, round, reports(dict.fromkeys(drawn, 1.0)))
        data = b"".join(map(bytes, encode_pieces(past.to_state())))
        again = Past.from_state(decode_file(data, name="state"))
        for mine, theirs in (
            (past.last_round, again.last_round),
            (past.last_loss, again.last_loss),
            (past.memory["times"], again.memory["times"]),
            (past.memory["is_new"], again.memory["is_new"]),
        ):
            assert (mine.dtype, mine.tobytes()) == (theirs.dtype, theirs.tobytes())
        past = again
    assert cohorts == [(0, 1, 2), (0, 3, 4), (1, 2, 3), (0, 1, 4), (2, 3, 4)]


class Forgetful(Sampler):
    def init(self, population: int) -> Any:
        return RETURNED[-1]

    def learn(self, memory: Any, feedback: Any) -> Any:
        return RETURNED[-1]


Forgetful.name = "forgetful"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned NoneType; it must be a dict of numpy arrays of numbers"),
        ({"times": [1, 2]}, "returned list for 'times'; it must be"),
        ({"names": np.array(["a"])}, "returned <U1 for 'names'; it must be"),
    ],
)
def test_what_a_sampler_remembers_is_checked(returned: Any, message: str) -> None:
    RETURNED.append(returned)
    with pytest.raises(ConfigError) as caught:
        begin_past(Forgetful(), 3)
    assert str(caught.value).startswith("sampler 'forgetful': init() " + message)
    with pytest.raises(ConfigError) as caught:
        learn_from(Forgetful(), Past.none(3), 1, reports({0: 1.0}))
    assert str(caught.value).startswith("sampler 'forgetful': learn() " + message)


def test_a_sampler_numbers_the_clients_that_may_be_drawn_from_0() -> None:
    """Of 6 clients 1, 2 and 5 may be drawn; 2 and 5 are in round 1, and 5 is dropped."""
    able, six = np.array([1, 2, 5]), np.ones(6, np.int64)
    sampler = PowerOfChoice(candidates=3)
    past = begin_past(sampler, 3)
    past = learn_from(sampler, past, 1, reports({2: 4.0, 5: 9.0}, dropped=(5,)), participants=able)
    assert past.last_round.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(past.last_loss, [np.nan, 4.0, np.nan])
    drawn = plan_round(
        sampler,
        num_examples=six,
        num_steps=six,
        size=2,
        seed=0,
        round=2,
        participants=able,
        past=past,
    )
    assert drawn.clients == (1, 5)
