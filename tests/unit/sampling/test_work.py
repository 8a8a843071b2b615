"""How much clients do in a round: numbers, fractions of an epoch, and distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare
from torch.utils.data import DataLoader

from simfl.errors import ConfigError
from simfl.sampling import (
    Choice,
    LocalWork,
    Stragglers,
    Uniform,
    UniformInt,
    Work,
    plan_round,
    work,
)
from simfl.sampling.work import draw_amounts

MANY = 20_000


@dataclass(frozen=True)
class Wrong(Work):
    """Return what a test says."""

    name: ClassVar[str] = "wrong"

    returned: Any

    def draw(self, seeds_C: np.ndarray[Any, Any]) -> Any:
        return self.returned


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (UniformInt(low=2, high=5), [2, 2, 3, 3, 4, 4, 5, 5]),
        (Choice(values=(1, 0.5)), [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        (Choice(values=(4, 0, 2), probabilities=(0.25, 0.5, 0.25)), [4, 4, 0, 0, 0, 0, 2, 2]),
        (Choice(values=(3, 7), probabilities=(0, 1)), [7] * 8),
        (Stragglers(share=1.0, full=9), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Stragglers(share=1.0, low=2, high=3), [2, 2, 2, 2, 3, 3, 3, 3]),
    ],
)
def test_equal_parts_of_probability_give_what_they_should(
    monkeypatch: pytest.MonkeyPatch, drawn: Work, expected: list[float]
) -> None:
    """Eight clients, whose uniform numbers are 0, 1/8, ..., 7/8."""
    monkeypatch.setattr(work, "uniforms", lambda seeds, step: np.sort(seeds) / 8)
    monkeypatch.setattr(work, "derive_seeds", lambda seeds, steps: seeds)
    assert drawn.draw(np.arange(8)).tolist() == expected


def amounts(drawn: Work, count: int = MANY, *, seed: int = 5, round: int = 1) -> Any:
    return draw_amounts(drawn, range(count), seed=seed, round=round)


@pytest.mark.parametrize(
    ("drawn", "shares"),
    [
        (UniformInt(high=6), dict.fromkeys(range(1, 7), 1 / 6)),
        (Choice(values=(1, 5, 20), probabilities=(0.2, 0.5, 0.3)), {1: 0.2, 5: 0.5, 20: 0.3}),
        (Stragglers(share=0.5, full=5), {5: 0.5, 1: 0.125, 2: 0.125, 3: 0.125, 4: 0.125}),
    ],
)
def test_amounts_are_distributed_as_stated(drawn: Work, shares: dict[float, float]) -> None:
    """Over clients of one round, over rounds of one client, and independently of each other."""
    values = list(shares)

    def counts(found: Any) -> list[int]:
        assert set(found) <= set(values)
        return [int((found == value).sum()) for value in values]

    over_clients = amounts(drawn)
    assert chisquare(counts(over_clients), MANY * np.array([*shares.values()])).pvalue > 0.01
    twenty = np.array([amounts(drawn, 20, round=round) for round in range(1, 1001)])
    expected = 1000 * np.array([*shares.values()])
    pvalues = [chisquare(counts(column), expected).pvalue for column in twenty.T]
    assert min(pvalues) > 0.01 / len(pvalues)
    next_round = amounts(drawn, round=2)
    table = [[((over_clients == a) & (next_round == b)).sum() for a in values] for b in values]
    assert chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_of_stragglers_is_exact_in_each_cohort(share: float) -> None:
    """As in the paper's code: ``round(K * (1 - share))`` clients do all epochs."""
    for size in range(1, 31):
        found = amounts(Stragglers(share=share, full=20), size, round=size)
        assert (found == 20).sum() == round(size * (1 - share))
        assert ((found >= 1) & (found <= 20)).all()


def test_the_same_clients_are_stragglers_where_they_are_dropped() -> None:
    """So that FedProx and a FedAvg that drops them can be compared, as in the paper's code."""
    slow = amounts(Stragglers(share=0.9, full=20), 100)
    dropped = amounts(Stragglers(share=0.9, full=20, drop=True), 100)
    assert dropped.tolist() == np.where(slow == 20, 20, 0).tolist()


@pytest.mark.parametrize(
    "drawn", [UniformInt(high=9), Choice(values=(1, 2)), Stragglers(share=0.5, full=9)]
)
def test_what_a_client_draws_depends_on_its_id_and_not_on_its_place(drawn: Work) -> None:
    ids = [7, 2**40, 0, 13, 99, 4]
    in_order = draw_amounts(drawn, ids, seed=1, round=3)
    reverse = draw_amounts(drawn, ids[::-1], seed=1, round=3)
    assert in_order.tolist() == reverse[::-1].tolist()
    if not isinstance(drawn, Stragglers):
        alone = [draw_amounts(drawn, [client], seed=1, round=3)[0] for client in ids]
        assert in_order.tolist() == alone
    assert (amounts(drawn) != amounts(drawn, round=2)).any()
    assert (amounts(drawn) != amounts(drawn, seed=6)).any()


@pytest.mark.parametrize("kind", [UniformInt, Stragglers])
def test_a_fixed_amount_is_drawn_once_for_the_run(kind: type[Work]) -> None:
    fields = {"high": 50} | ({"share": 0.5} if kind is Stragglers else {})
    fixed = kind(**fields, fixed=True)
    assert amounts(fixed).tolist() == amounts(fixed, round=7).tolist()
    assert (amounts(fixed) != amounts(fixed, seed=6)).any()


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0.5, [0, 1, 1, 1, 2, 3, 5]),
        (0.01, [0, 1, 1, 1, 1, 1, 1]),
        (1.5, [0, 2, 2, 3, 5, 8, 15]),
        (2, [0, 2, 2, 4, 6, 10, 20]),
        (2.0, [0, 2, 2, 4, 6, 10, 20]),
    ],
)
def test_fractions_of_an_epoch_are_rounded_to_the_nearest_step_and_at_least_one(
    epochs: float, expected: list[int]
) -> None:
    """Clients of 0, 1, 1, 2, 3, 5 and 10 batches."""
    examples = np.array([0, 1, 10, 20, 25, 50, 100])
    local = LocalWork(epochs=epochs, batch_size=10)
    steps = local.num_steps(examples)
    assert steps.tolist() == expected
    drawn = LocalWork(epochs=Choice(values=(epochs,)), batch_size=10)
    found = drawn.draw_steps(examples, seed=0, round=1, clients=range(7))
    assert found is not None
    assert found.tolist() == expected
    for count, expected_steps in zip(examples, expected, strict=True):
        batches = local.draw_batches(np.arange(count), seed=0, round=1, client=3)
        assert len(batches) == expected_steps


def test_half_an_epoch_is_the_first_half_of_a_whole_one() -> None:
    half, whole = (
        LocalWork(epochs=epochs, batch_size=3).draw_batches(
            np.arange(12), seed=0, round=1, client=4
        )
        for epochs in (0.5, 1)
    )
    assert [batch.tolist() for batch in half] == [batch.tolist() for batch in whole[:2]]


@pytest.mark.parametrize("epochs", [1, 2, 0.5, 1.5])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count", [10, 11, 19, 20, 43])
def test_batches_are_as_large_as_those_of_torchs_loader(
    epochs: float, drop_last: bool, count: int
) -> None:
    """Of clients that have a whole batch: an only batch that is smaller is never left out."""
    loader: Any = DataLoader(range(count), batch_size=10, drop_last=drop_last)  # type: ignore[arg-type]
    sizes = [len(batch) for batch in loader]
    expected = (sizes * 2)[: max(1, int(np.floor(epochs * len(sizes) + 0.5)))]
    local = LocalWork(epochs=epochs, batch_size=10, drop_last=drop_last)
    batches = local.draw_batches(np.arange(count), seed=0, round=1, client=0)
    assert [len(batch) for batch in batches] == expected


def test_no_work_drawn_is_no_step_and_any_other_at_least_one() -> None:
    for key in ("epochs", "steps"):
        given: Any = {key: Choice(values=(0, 0.1), probabilities=(0.5, 0.5))}
        local = LocalWork(batch_size=10, **given)
        steps = local.draw_steps(np.full(200, 20), seed=0, round=1, clients=range(200))
        assert steps is not None
        assert set(steps.tolist()) == {0, 1}


def test_steps_that_are_drawn_need_no_look_at_the_examples() -> None:
    local = LocalWork(steps=UniformInt(low=3, high=3), batch_size=2)
    steps = local.draw_steps(np.array([0, 1, 50]), seed=0, round=1, clients=range(3))
    assert steps is not None
    assert steps.tolist() == [0, 3, 3]


def test_a_plan_sorts_a_cohort_by_the_steps_that_it_has_drawn() -> None:
    examples, everyone = np.full(50, 40), LocalWork(epochs=UniformInt(high=9), batch_size=10)
    options: dict[str, Any] = {"num_examples": examples, "num_steps": examples, "size": 20}
    plan = plan_round(Uniform(), **options, seed=3, round=2, work=everyone)
    assert plan.draws_steps
    assert list(plan.num_steps) == sorted(plan.num_steps, reverse=True)
    drawn = draw_amounts(UniformInt(high=9), plan.clients, seed=3, round=2)
    assert plan.num_steps == tuple(4 * drawn)
    plain = plan_round(Uniform(), **options, seed=3, round=2, work=LocalWork())
    assert sorted(plain.clients) == sorted(plan.clients)
    assert not plain.draws_steps


@pytest.mark.parametrize(
    "local",
    [
        LocalWork(batch_size=3),
        LocalWork(batch_size=3, drop_last=True),
        LocalWork(epochs=Stragglers(share=0.5, full=3), batch_size=3),
    ],
)
def test_the_steps_of_a_plan_are_those_that_are_made(local: LocalWork) -> None:
    """A stack of five clients makes them, and each client alone has the same batches."""
    rows = [np.arange(100 * c, 100 * c + count) for c, count in enumerate((8, 8, 8, 2, 2))]
    taken = [7, 4, 2, 1, 0]
    together = local.taking(taken).plan_steps(rows, seed=2, round=4, clients=range(5))
    assert together.num_steps.tolist() == taken
    for c, steps in enumerate(taken):
        alone = local.taking([steps]).draw_batches(rows[c], seed=2, round=4, client=c)
        assert len(alone) == steps
        for step, batch in enumerate(alone):
            assert batch.tolist() == together.rows[step, c, : together.sizes[step, c]].tolist()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], r"work 'wrong' returned float64 of shape \[2\]; return 3 finite numbers"),
        (["a"] * 3, "work 'wrong' returned <U1 of shape"),
        ([1.0, -2.0, 1.0], "work 'wrong' returned -2; return 3 finite numbers of at least 0"),
        ([1.0, 2.0, np.nan], "work 'wrong' returned nan"),
        ([1.0, 2.0, np.inf], "work 'wrong' returned inf"),
    ],
)
def test_a_distribution_that_returns_no_amounts_is_told_so(returned: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_amounts(Wrong(returned), range(3), seed=0, round=1)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (UniformInt, {"low": 3, "high": 2}, "low is 3, above high, 2"),
        (Choice, {"values": (0, 0)}, "values are .* some above 0"),
        (Choice, {"values": (1, np.inf)}, "give finite numbers"),
        (Choice, {"values": (1, 2), "probabilities": (1.0,)}, "give 2, one for each value"),
        (Choice, {"values": (1, 2), "probabilities": (0.5, 0.6)}, "add up to 1.1; .*up to 1$"),
        (Stragglers, {"share": 0.5}, "full and high are null; give full"),
        (Stragglers, {"share": 0.5, "full": 1}, "low is 1, above the most .* 0; lower it"),
    ],
)
def test_a_distribution_with_nothing_to_draw_from_is_refused(
    kind: type[Work], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**fields)
    if kind is Stragglers and "full" in fields:
        Stragglers(**fields, drop=True)
