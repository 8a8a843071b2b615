"""The plan of a round: a sampler's cohort, checked and in order; and what the sampler learns.

Shapes: N clients of the population, K of a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from simfl.errors import ConfigError
from simfl.messages import ClientReports, RoundPlan
from simfl.sampling.local_work import LocalWork
from simfl.sampling.pool import Array, Memory, Past, Pool
from simfl.sampling.sampler import Sampler
from simfl.seeding import numpy_generator

_STORED: Final = "biuf"
"""The kinds of numpy's types that a checkpoint can hold: truth values, integers and floats."""


def begin_past(sampler: Sampler, population: int) -> Past:
    """Return what a sampler knows of the past before the first round.

    Raises:
        ConfigError: unless the sampler's memory is a dict of arrays of numbers.
    """
    memory = _require_memory(sampler.init(population), f"sampler {sampler.name!r}: init()")
    return replace(Past.none(population), memory=memory)


def looks_back(sampler: Sampler) -> bool:
    """Return whether cohorts may depend on the past, which checkpoints then have.

    Other samplers always draw as many clients as the scenario asks for.
    """
    return type(sampler).select is not Sampler.select


def learn_from(
    sampler: Sampler,
    past: Past,
    round: int,
    reports: ClientReports,
    *,
    participants: Array | None = None,
) -> Past:
    """Return the past after a round.

    Args:
        sampler: the rule.
        past: before the round.
        round: which round.
        reports: of all its clients.
        participants: as in ``plan_round``.

    Raises:
        ConfigError: unless the sampler's memory is a dict of arrays of numbers.
    """
    columns = {column.name: getattr(reports, column.name) for column in fields(ClientReports)}
    if participants is not None:
        columns["client"] = np.searchsorted(participants, reports.client)
        number = dict(zip(reports.client.tolist(), columns["client"].tolist(), strict=True))
        columns["dropped"] = {number[client]: why for client, why in reports.dropped.items()}
    feedback = ClientReports(**columns | {"seconds": np.full(len(reports), np.nan)})
    learned = sampler.learn(past.memory, feedback)
    memory = _require_memory(learned, f"sampler {sampler.name!r}: learn()")
    return replace(past.after(round, feedback), memory=memory)


def plan_round(
    sampler: Sampler,
    *,
    num_examples: Array,
    num_steps: Array,
    size: int,
    seed: int,
    round: int,
    work: LocalWork | None = None,
    participants: Array | None = None,
    past: Past | None = None,
    ask: Callable[[Array], Array] | None = None,
) -> RoundPlan:
    """Draw a round's cohort and sort it: longest local work first, then by id.

    Args:
        sampler: the rule.
        num_examples: [N] how many examples each client trains on.
        num_steps: [N] how many local steps each client makes.
        size: the number of clients that the scenario asks for.
        seed: the run's seed.
        round: which round, from 1.
        work: what clients do. If its amount is drawn, the cohort's is drawn here, and
            ``num_steps`` is not used.
        participants: the ids of the clients that may be drawn, ascending: the population that the
            sampler sees, numbered from 0; None: all.
        past: what the rounds before have left of them; None: there were none.
        ask: ids [M] -> their losses with the weights that the round starts from, float64 [M].

    Raises:
        ConfigError: unless the sampler returns different ids, or if what is drawn is no amount of
            work.
    """
    is_all = participants is None or len(participants) == len(num_examples)
    ids = slice(None) if is_all else participants
    examples, rng = num_examples[ids], numpy_generator(seed, "cohort", round=round)
    asked = np.zeros(0, np.int64)
    if looks_back(sampler):
        past = past or begin_past(sampler, len(examples))
        pool = past.pool(round, num_examples=examples, num_steps=num_steps[ids])
        known = np.arange(len(pool)) if participants is None else participants
        pool = _with_losses(sampler, pool, past, size, rng, known, ask)
        cohort, wanted, asked = sampler.select(pool, past.memory, size, rng), None, pool.asked
    else:
        # A pool's columns are as long as the population: to make them takes longer than a draw.
        cohort, wanted = sampler.sample(examples, size, rng=rng), size
    where = f"sampler {sampler.name!r}"
    clients = np.sort(_checked(cohort, where, size=wanted, population=len(examples)))
    num_asked = len(np.setdiff1d(asked, clients)) if len(asked) else 0
    if participants is not None:
        clients = participants[clients]
    plan = order_cohort(
        clients, num_examples=num_examples, num_steps=num_steps, seed=seed, round=round, work=work
    )
    return replace(plan, num_asked=num_asked)


def order_cohort(
    clients: Array,
    *,
    num_examples: Array,
    num_steps: Array,
    seed: int,
    round: int,
    work: LocalWork | None = None,
) -> RoundPlan:
    """Return the plan of a cohort: longest local work first, then by id.

    Args:
        clients: their ids, ascending.
        num_examples: as in ``plan_round``.
        num_steps: as in ``plan_round``.
        seed: as in ``plan_round``.
        round: as in ``plan_round``.
        work: as in ``plan_round``.

    Raises:
        ConfigError: if what is drawn is no amount of work.
    """
    drawn: Array | None = None
    if work is not None:
        held = num_examples[clients]
        drawn = work.draw_steps(held, seed=seed, round=round, clients=clients)
    steps = num_steps[clients] if drawn is None else drawn
    order = np.argsort(-steps, kind="stable")
    return RoundPlan(
        round,
        tuple(clients[order].tolist()),
        tuple(steps[order].tolist()),
        draws_steps=drawn is not None,
    )


def _with_losses(
    sampler: Sampler,
    pool: Pool,
    past: Past,
    size: int,
    rng: np.random.Generator,
    known: Array,
    ask: Callable[[Array], Array] | None,
) -> Pool:
    """Return the population with the losses of the clients that the sampler asks.

    Args:
        sampler: the rule.
        pool: the population.
        past: what the rounds before have left of it.
        size: the number of clients that the scenario asks for.
        rng: the round's own generator.
        known: [N] the ids of the population outside of the pool.
        ask: as for ``plan_round``.

    Raises:
        ConfigError: unless it returns different ids.
    """
    asked = sampler.asks(pool, past.memory, size, rng)
    where = f"sampler {sampler.name!r}: asks()"
    asked = _checked(asked, where, size=None, population=len(pool))
    if not len(asked):
        return pool
    assert ask is not None, "this sampler asks clients for their losses"
    return pool.with_losses(asked, ask(known[asked]))


def _checked(drawn: Any, where: str, *, size: int | None, population: int) -> Array:
    """Return the ids that a sampler returned, as int64.

    Raises:
        ConfigError: unless they are different ids, of this number if one is given.
    """
    number = "" if size is None else f"{size} "
    wanted = f"it must return {number}different ids from 0 to {population - 1}"
    try:
        ids = np.asarray(drawn)
    except ValueError:  # a list of lists of several lengths
        raise ConfigError(f"{where} returned {type(drawn).__name__}; {wanted}") from None
    if size is not None and ids.ndim == 1 and len(ids) != size:
        raise ConfigError(
            f"{where} returned {len(ids)} clients, but {size} take part in a round; override "
            "select() to draw any number"
        )
    if ids.shape == (0,):
        return ids.astype(np.int64)  # numpy's type of an empty list is float64
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ConfigError(f"{where} returned {ids.dtype} of shape {list(ids.shape)}; {wanted}")
    if (is_out := (ids < 0) | (ids >= population)).any():
        raise ConfigError(
            f"{where} returned client {ids[is_out][0]}, but clients are numbered from 0 to "
            f"{population - 1}"
        )
    found, times = np.unique(ids, return_counts=True)
    if len(found) < len(ids):
        raise ConfigError(
            f"{where} returned client {found[times.argmax()]} {times.max()} times; {wanted}"
        )
    return ids.astype(np.int64)


def _require_memory(memory: Any, where: str) -> Memory:
    wanted = "it must be a dict of numpy arrays of numbers"
    if not isinstance(memory, dict):
        raise ConfigError(f"{where} returned {type(memory).__name__}; {wanted}")
    for name, array in memory.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in _STORED:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ConfigError(f"{where} returned {kind} for {name!r}; {wanted}")
    return memory
