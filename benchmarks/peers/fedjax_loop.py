"""FedJAX as a contestant: one process, whose steps XLA has compiled and runs on all cores.

Its algorithm is that of ``fedjax.algorithms.fed_avg``, with the losses counted. Clients are trained
one after the other (the "jit" backend); "pmap" maps them over accelerators.

Source: Ro, Suresh and Wu, 2021, https://arxiv.org/abs/2108.02117, https://github.com/google/fedjax
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from recipe import ClientRound, Recipe, read_recipe
from turns import Turns
from workloads import Workload

# B examples of a batch, F features, H and W height and width


def main() -> None:
    """Take turns."""
    turns = Turns()
    recipe = read_recipe(Path(sys.argv[1]))
    work = recipe.workload
    if work.momentum or work.prox or work.scaffold or work.as_bytes:
        raise SystemExit("with FedJAX there is SGD on floats only; leave it out")
    train = make_algorithm(recipe)
    weights = {name: jnp.asarray(array) for name, array in recipe.weights.items()}
    for cohort in recipe.rounds():
        if not turns.wait():
            break
        began = time.perf_counter()
        weights, losses = train(weights, cohort)
        jax.block_until_ready(weights)
        seconds = time.perf_counter() - began
        seen = sum(len(rows_B) for client in cohort for rows_B in client.batches)
        turns.add(seconds, losses / seen)


def make_algorithm(recipe: Recipe) -> Any:
    """Return what trains a cohort: (weights, cohort) -> new weights, sum of losses."""
    work = recipe.workload
    data = work.make_examples()
    differentiate = jax.value_and_grad(make_loss(work))
    optimizer = fedjax.optimizers.sgd(learning_rate=work.lrate)
    server = fedjax.optimizers.sgd(learning_rate=1.0)

    def begin(weights: Any, _: Any) -> Any:
        return {"weights": weights, "optimizer": optimizer.init(weights), "losses": jnp.zeros(())}

    def step(state: Any, batch: Any) -> Any:
        loss, gradients = differentiate(state["weights"], batch)
        own, weights = optimizer.apply(gradients, state["optimizer"], state["weights"])
        losses = state["losses"] + loss * len(batch["targets"])
        return {"weights": weights, "optimizer": own, "losses": losses}

    def end(weights: Any, state: Any) -> Any:
        deltas = jax.tree_util.tree_map(jnp.subtract, weights, state["weights"])
        return deltas, state["losses"]

    train_each = fedjax.for_each_client(begin, step, end)

    def train(weights: Any, cohort: list[ClientRound]) -> tuple[Any, float]:
        held = {client.client: client.num_examples for client in cohort}
        clients = [(client.client, _batches(client, data), ()) for client in cohort]
        losses: list[Any] = []

        def deltas() -> Iterator[tuple[Any, int]]:
            for client, (delta, loss) in train_each(weights, clients):
                losses.append(loss)
                yield delta, held[client]

        mean = fedjax.tree_util.tree_mean(deltas())
        _, weights = server.apply(mean, server.init(weights), weights)
        return weights, float(np.sum(jax.device_get(losses), dtype=np.float64))

    return train


def _batches(client: ClientRound, data: dict[str, np.ndarray[Any, Any]]) -> Iterator[Any]:
    for rows_B in client.batches:
        yield {"inputs": data["inputs"][rows_B], "targets": data["targets"][rows_B]}


def make_loss(work: Workload) -> Any:
    """Return the mean loss of a batch: (weights by name, batch) -> 0-d."""
    forward = {"mlp": _mlp, "cnn-32": _cnn_32}.get(work.model["kind"])
    if forward is None:
        raise SystemExit(f"FedJAX has no {work.model['kind']!r} here; leave it out")

    def loss(weights: Any, batch: Any) -> Any:
        log_p = jax.nn.log_softmax(forward(weights, batch["inputs"]))
        return -jnp.take_along_axis(log_p, batch["targets"][:, None], axis=1).mean()

    return loss


def _dense(weights: Any, name: str, values_BF: Any) -> Any:
    return values_BF @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _mlp(weights: Any, values: Any) -> Any:
    values = values.reshape(len(values), -1)
    for number in range(1, len(weights) // 2):
        values = jax.nn.relu(_dense(weights, f"hidden{number}", values))
    return _dense(weights, "output", values)


def _cnn_32(weights: Any, values_BCHW: Any) -> Any:
    values = jax.nn.relu(_convolution(weights, "conv1", values_BCHW))
    values = jax.nn.relu(_convolution(weights, "conv2", values))
    square = (1, 1, 2, 2)
    values = jax.lax.reduce_window(values, -math.inf, jax.lax.max, square, square, "VALID")
    values = jax.nn.relu(_dense(weights, "hidden", values.reshape(len(values), -1)))
    return _dense(weights, "output", values)


def _convolution(weights: Any, name: str, values_BCHW: Any) -> Any:
    kernel = weights[f"{name}.weight"]
    out = jax.lax.conv_general_dilated(values_BCHW, kernel, (1, 1), "VALID")
    return out + weights[f"{name}.bias"][:, None, None]


if __name__ == "__main__":
    main()
