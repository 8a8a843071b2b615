"""Which clients of the population are selected, which of them train, and how many in a round."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simfl.data import FederatedDataset
from simfl.scenario import Scenario
from simfl.sections import SelectionSection
from simfl.seeding import numpy_generator


def named_clients(
    scenario: Scenario, key: str, selection: SelectionSection, dataset: FederatedDataset
) -> np.ndarray[Any, Any]:
    """Return the ids that are selected by ``range``, ``ids`` or ``column``, ascending.

    Args:
        scenario: in which the selection is.
        key: of the selection, for messages.
        selection: any but a ``fraction``.
        dataset: has the population and its columns.

    Raises:
        ScenarioError: if the population has no such client.
    """
    if selection.column is not None:
        column = dataset.client_columns[selection.column]
        return np.flatnonzero(np.isin(column.astype(str), [str(v) for v in selection.values]))
    if selection.range is not None:
        chosen = np.arange(selection.range[0], selection.range[1] + 1)
    else:
        chosen = np.unique(selection.ids or ())
    if chosen[-1] >= dataset.num_clients:
        last = dataset.num_clients - 1
        raise scenario.fault(
            key, f"has client {chosen[-1]}, but clients are numbered from 0 to {last}"
        )
    return chosen


def participants(scenario: Scenario, dataset: FederatedDataset) -> np.ndarray[Any, Any]:
    """Return the ids of the clients that may train, ascending: all but ``evaluation.new_clients``.

    Raises:
        ScenarioError: if the population has no such clients, or no others.
    """
    everyone = np.arange(dataset.num_clients)
    selection, key = scenario.evaluation.new_clients, "evaluation.new_clients"
    if selection is None:
        return everyone
    if selection.fraction is None:
        new = named_clients(scenario, key, selection, dataset)
    else:
        count = round(selection.fraction * len(everyone))
        new = numpy_generator(scenario.seed, "new_clients").permutation(everyone)[:count]
    rest = np.setdiff1d(everyone, new)
    if not len(new):
        raise scenario.fault(key, f"selects none of {len(everyone)} clients; select others")
    if not len(rest):
        raise scenario.fault(
            key, f"selects all {len(everyone)} clients, and none would train; select fewer"
        )
    return rest


def cohort_size_of(scenario: Scenario, num_training: int, population: int) -> int:
    """Return how many clients take part in a round.

    Args:
        scenario: says so.
        num_training: how many clients may train.
        population: how many clients there are.

    Raises:
        ScenarioError: if it asks for more than there are.
    """
    per_round = scenario.client.per_round
    if per_round is None:
        return num_training
    if isinstance(per_round, float):
        return max(1, math.floor(per_round * num_training + 0.5))
    if per_round > population:
        raise scenario.fault(
            "client.per_round",
            f"is {per_round}, but the partition made {population} clients; "
            "lower it or raise data.partition.clients",
        )
    if per_round > num_training:
        raise scenario.fault(
            "client.per_round",
            f"is {per_round}, but only {num_training} of {population} clients train, as "
            f"evaluation.new_clients selects the others; lower it to {num_training}",
        )
    return per_round
