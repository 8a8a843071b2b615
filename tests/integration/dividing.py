"""Random scenarios in which each client has test examples of its own."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np


def give_tests(scenario: dict[str, Any], rng: Random) -> None:
    """Evaluate some scenarios' clients on test examples with their ids."""
    data = scenario["data"]
    if data.get("path") != "at_random:rows" or rng.random() >= 0.15:
        return
    clients = data["partition"]["clients"]
    scenario["data"] = {
        **data,
        "path": "dividing:rows_of_clients",
        "arguments": {**data["arguments"], "clients": clients},
        "partition": {"kind": "natural"},
        "test_fraction": 0.0,
        "holdout_fraction": 0.0,
        "client_tests": True,
    }


def rows_of_clients(num: int, shape: list[int], clients: int, seed: int) -> dict[str, Any]:
    """Return points of separated classes by client, and a third as many tests.

    Some tests are of a client that does not train, and some clients may have none.
    """
    from at_random import rows

    inputs, targets = rows(num + num // 3, shape, seed)
    rng = np.random.default_rng(seed + 1)
    owners = np.concatenate([np.arange(clients), rng.integers(clients, size=num - clients)])
    return {
        "inputs": inputs[:num],
        "targets": targets[:num],
        "client": owners,
        "test_inputs": inputs[num:],
        "test_targets": targets[num:],
        "test_client": rng.integers(clients + 1, size=num // 3),
    }
