"""Small valid scenarios drawn at random, and what they need: data, models, plug-ins.

``draw(seed)`` combines modules, regularizers, schedules, aggregators, samplers, losses, partitions,
tables, tokens, augmentation, models of Hugging Face, unequal work, micro-batches, algorithms,
transforms, personal and fixed weights, stacks, groups, kept states, drops, checkpoints and
spilling. The scenarios name this module under ``plugins:``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
from at_random_algorithms import accumulate, choose_algorithm, name_weights
from at_random_data import fine_tune, give_tests, read_table, speak
from torch import Tensor, nn

from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector

ROUNDS = 4
CLASSES = 3
_BATCH_LOSSES = {"sam", "fedlc", "fedrs", "feddecorr", "distillation"}


def draw(seed: int) -> dict[str, Any]:
    """Return the scenario of a seed."""
    rng = Random(seed)
    population = rng.randint(6, 11)
    cohort = rng.randint(5, population)
    is_image = rng.random() < 0.2
    scaffold = rng.random() < 0.25
    dedicated = rng.random() < 0.08
    model = _model(rng, is_image=is_image)
    # Averages over a batch, in buffers or losses, cannot be computed one example at a time.
    client = _client(
        rng,
        population,
        cohort,
        scaffold=scaffold,
        dedicated=dedicated,
        may_clip=model.get("path") != "at_random:with_buffers"
        and not (set(str(model["loss"]).split("'")) & _BATCH_LOSSES),
    )
    server = _server(rng, cohort, scaffold=scaffold)
    takes_any_cohort = not re.search("krum|trimmed-mean|nnm", str(server))
    if takes_any_cohort and "drop'" not in str(client) and rng.random() < 0.4:
        client |= {"sampler": "poisson", "per_round": rng.choice([1, cohort])}
    scenario = {
        "rounds": ROUNDS,
        "seed": rng.randrange(1000),
        "plugins": ["at_random", "third_party"],
        "search": [str(Path(__file__).parent)],
        "data": _data(rng, population, is_image=is_image),
        "model": model,
        "client": client,
        "server": server,
        "evaluation": {"clients_every": rng.choice([0, 1, 2]), "every": rng.choice([0, 1, 3])}
        | _own_models(Random(f"own models {seed}"), population, cohort),
        "cluster": {"placement": "dedicated", "num_cpus": 0.5} if dedicated else _cluster(rng),
        "checkpoint": {"every": rng.choice([1, 2]), "keep": rng.choice([1, 2])},
    }
    if "new_clients" in scenario["evaluation"] and client["per_round"] < 1:
        client["per_round"] = cohort  # a share is one of those that may train
    client["transforms"] = _transforms(rng, keep_state=client["keep_state"])
    _see(scenario, Random(f"images {seed}"))
    choose_algorithm(scenario, Random(f"algorithm {seed}"))
    name_weights(scenario, Random(f"weights {seed}"))
    speak(scenario, Random(f"text {seed}"))
    _measure(scenario, Random(f"metrics {seed}"))
    fine_tune(scenario, Random(f"fine-tuning {seed}"))
    accumulate(scenario, Random(f"micro-batches {seed}"))
    give_tests(scenario, Random(f"tests {seed}"))
    _augment(scenario, Random(f"augmentation {seed}"))
    read_table(scenario, Random(f"tables {seed}"))
    if (judged := Random(f"judging {seed}")).random() < 0.15:
        scenario["stop"] = {"patience": 1, "min_delta": judged.choice([0.0, 0.1])}
    return scenario


def can_be_compared(scenario: dict[str, Any]) -> bool:
    """Return whether numbers that differ in their last bits stay close for a few rounds.

    Not so where a rule picks clients or numbers whole (Krum, nearest neighbours, the largest
    losses, top-k), or divides by the root of what may be rounding alone (adaptive modules), or
    computes with 8 bits of mantissa.
    """
    modules = [
        module[0] if isinstance(module, list) else module
        for side in ("client", "server")
        for module in scenario[side]["optimizer"].get("modules", [])
    ]
    erratic = {"adagrad", "adam", "rmsprop", "yogi", "yogi-momentum"}
    return (
        "bf16" not in (scenario["client"].get("precision"), scenario["model"].get("dtype"))
        and not erratic & {*modules}
        and not re.search("krum|nnm|power-of-choice|top-k", str(scenario))
    )


def _data(rng: Random, population: int, *, is_image: bool) -> dict[str, Any]:
    shape = [1, 5, 5] if is_image else [6]
    partition: dict[str, Any] = {"clients": population} | rng.choice(
        [
            {"kind": "iid"},
            {"kind": "dirichlet", "alpha": rng.choice([0.3, 1.0, 100.0])},
            {"kind": "quantity", "alpha": rng.choice([0.5, 5.0])},
            {"kind": "shards", "shards_per_client": 2},
            {"kind": "similar", "similarity": 0.1},
        ]
    )
    arguments = {"num": rng.choice([60, 90, 120]), "shape": shape}
    return {
        "source": "python",
        "path": "at_random:rows",
        "arguments": arguments,
        "partition": partition,
        "test_fraction": rng.choice([0.0, 0.2]),
        "holdout_fraction": rng.choice([0.0, 0.3]),
    }


def _model(rng: Random, *, is_image: bool) -> dict[str, Any]:
    models: list[dict[str, Any]] = [
        {"kind": "logistic"},
        {"kind": "mlp", "hidden": [5]},
        {"kind": "mlp", "hidden": [5, 4], "activation": "tanh", "dropout": 0.2},
        {"kind": "python", "path": "at_random:partly_frozen"},
        {"kind": "python", "path": "at_random:with_buffers"},
    ]
    if is_image:
        models = [
            {"kind": "cnn-28"},
            {"kind": "python", "path": "at_random:small_cnn"},
            *models[:2],
        ]
    model = rng.choice(models)
    return model | {"loss": _loss(rng, last_layer=_LAST_LAYERS[model.get("path", model["kind"])])}


_LAST_LAYERS = {
    "logistic": "output",
    "mlp": "output",
    "cnn-28": "output",
    "at_random:partly_frozen": "2",
    "at_random:with_buffers": "layer",
    "at_random:small_cnn": "4",
}


def _loss(rng: Random, *, last_layer: str) -> Any:
    of_a_batch: list[Any] = [
        "fedrs",
        ["fedlc", {"tau": 0.5}],
        ["feddecorr", {"layer": last_layer, "of": "fedrs"}],
        ["distillation", {"strength": 0.5, "temperature": 2.0, "not_true": rng.random() < 0.5}],
    ]
    chosen = rng.choice(
        [
            "cross-entropy",
            "cross-entropy",
            ["cross-entropy", {"label_smoothing": 0.1}],
            rng.choice(of_a_batch),
        ]
    )
    return ["sam", {"of": chosen}] if rng.random() < 0.15 else chosen


def _client(
    rng: Random,
    population: int,
    cohort: int,
    *,
    scaffold: bool,
    dedicated: bool,
    may_clip: bool,
) -> dict[str, Any]:
    choice = {"candidates": cohort + 1, "loss": "current" if cohort % 2 else "last"}
    client: dict[str, Any] = {
        "per_round": rng.choice([cohort, cohort, (cohort - 0.4) / population]),
        "sampler": rng.choice(
            [
                "uniform",
                "uniform",
                "weighted",
                "round-robin",
                ["power-of-choice", choice],
            ]
        ),
        "batch_size": rng.choice([2, 4, 4, 7, None]),
        "optimizer": _optimizer(rng, side="client", scaffold=scaffold),
        "stack": 1 if dedicated else rng.choice([1, 2, 4, 8, "auto"]),
        "keep_state": True if scaffold else rng.random() < 0.8,
    }
    client |= rng.choice([{"epochs": 1}, {"epochs": 2}, {"steps": 3}, _uneven_work(rng)])
    client["drop_last"] = rng.random() < 0.2
    if may_clip and rng.random() < 0.2:
        client["sclip"] = rng.choice([0.5, 5.0])
    if rng.random() < 0.1:
        client["precision"] = "bf16"
    if rng.random() < 0.4:
        clients = list(range(population))
        rng.shuffle(clients)
        # Three of a cohort are left, as few as robust rules take.
        stumble = {
            "failing": clients[: rng.randint(0, 1)],
            "diverging": clients[1 : 1 + rng.randint(0, 1)],
            "rounds": rng.choice([[1], [2], [1, 3], [2, 3, 4]]),
            "step": rng.choice([1, 2]),
        }
        if "drop" in str(client.get("epochs")):
            client["epochs"] = 2
        client |= {"on_failure": "drop", "on_nonfinite": "drop"}
        client["optimizer"]["modules"].append(["stumble", stumble])
    return client


def _uneven_work(rng: Random) -> dict[str, Any]:
    """Return a fraction of an epoch, or a distribution; some drop a fifth of a cohort."""
    slow = {"share": 0.2, "full": 3, "drop": True}
    return rng.choice(
        [
            {"epochs": 0.5},
            {"epochs": ["stragglers", {"share": 0.5, "full": 3}]},
            {"epochs": ["stragglers", slow]},
            {"epochs": ["choice", {"values": [0.3, 1, 2], "fixed": True}]},
            {"steps": ["uniform-int", {"low": 1, "high": 4}]},
        ]
    )


def _transforms(rng: Random, *, keep_state: bool) -> list[Any]:
    clip = ["clip", {"max_norm": rng.choice([0.1, 1.0])}]
    top = ["top-k", {"fraction": rng.choice([0.1, 0.5]), "feedback": keep_state}]
    codec: Any = rng.choice(["cast", top, top])
    return rng.choice([[], [], [], [clip], [codec], [clip, codec]])


def _optimizer(rng: Random, *, side: str, scaffold: bool) -> dict[str, Any]:
    base = 0.05 if side == "client" else 1.0
    modules: list[Any] = rng.sample(
        [
            "adagrad",
            ["adam", {"amsgrad": rng.random() < 0.5}],
            ["ewma", {"beta": 0.5}],
            ["gaussian-noise", {"std": 0.01}],
            ["l2-clipping", {"max_norm": 0.5}],
            ["l2-global-clipping", {"max_norm": 0.5}],
            ["momentum", {"beta": 0.5, "nesterov": rng.random() < 0.5}],
            "rmsprop",
            "yogi",
            "yogi-momentum",
            "fading",
        ],
        rng.choice([0, 0, 1, 1, 2]),
    )
    if scaffold:
        modules.insert(rng.randint(0, len(modules)), f"scaffold-{side}")
    regularizers = rng.sample(
        [["fedprox", {"alpha": 0.1}], ["lasso", {"alpha": 0.01}], ["ridge", {"alpha": 0.01}]],
        rng.choice([0, 0, 1, 2]) if side == "client" else 0,
    )
    unit = rng.choice(["round", "step"])
    lrate: Any = rng.choice(
        [
            base,
            base,
            ["exponential", {"base": base, "factor": 0.8, "unit": unit}],
            ["warm-up", {"after": base, "length": 2, "unit": unit}],
            ["cosine", {"base": base, "length": 6, "unit": unit}],
        ]
    )
    return {
        "lrate": lrate,
        "w_decay": rng.choice([0.0, 0.0, 0.001]),
        "regularizers": regularizers,
        "modules": modules,
    }


def _server(rng: Random, cohort: int, *, scaffold: bool) -> dict[str, Any]:
    need_several = [
        ["trimmed-mean", {"trim": 1.0 / cohort}],
        ["krum", {"num_byzantine": 0, "num_selected": 2}],
    ]
    aggregator = rng.choice(
        [
            *["mean"] * 3,
            "median",
            "geometric-median",
            ["centered-clipping", {"radius": 0.2}],
            *need_several,
        ]
    )
    steps: list[Any] = [[], [], [], ["nnm"]]
    if aggregator not in need_several:
        steps.append([["bucketing", {"size": 2}]])
    server = {
        "optimizer": _optimizer(rng, side="server", scaffold=scaffold),
        "aggregator": aggregator,
        "pre_aggregators": rng.choice(steps),
        "weighting": rng.choice(["examples", "steps", "uniform"]),
    }
    if server["pre_aggregators"] or aggregator not in ("mean", "geometric-median"):
        server["weighting"] = "examples" if server["weighting"] == "examples" else "uniform"
    return server


def _measure(scenario: dict[str, Any], rng: Random) -> None:
    """Have some of the scenarios measured by what is no mean, with weights of their classes."""
    if "metrics" in scenario["evaluation"] or rng.random() < 0.6:
        return
    if scenario["model"]["loss"] == "cross-entropy":
        weighted = ["cross-entropy", {"weight": "balanced"}]
        scenario["model"]["loss"] = rng.choice([weighted, ["focal", {"alpha": "balanced"}]])
    macro = ["recall", {"average": "none"}]
    some = ["f1", macro, "confusion", "auc", ["auc", {"average": "micro", "bins": 9}], "ece"]
    scenario["evaluation"]["metrics"] = rng.sample(some, 3)
    scenario["evaluation"]["train_loss"] = scenario["evaluation"]["every"] > 0
    best = rng.choice(["auto", "train_loss"])
    trains = "centralized" not in str(scenario.get("algorithm"))  # clients, which have a loss then
    scenario["output"] = {"best": best if trains else "auto"}


def _see(scenario: dict[str, Any], rng: Random) -> None:
    """Have a vision transformer in place of some convolutions."""
    if scenario["model"]["kind"] == "cnn-28" and rng.random() < 0.5:
        tiny = {"kind": "vit", "patch": 5, "dim": 4, "depth": 1, "heads": 2, "mlp": 5}
        scenario["model"] |= tiny | {"dropout": rng.choice([0.0, 0.2])}


def _augment(scenario: dict[str, Any], rng: Random) -> None:
    """Change training examples at random in some of the scenarios of arrays."""
    data = scenario["data"]
    if data.get("path") != "at_random:rows" or rng.random() < 0.6:
        return
    if "fedsgd" in str(scenario.get("algorithm")):  # takes no steps, and refuses it
        return
    steps: list[Any] = [["noise", {"scale": 0.2}]]
    if len(data["arguments"]["shape"]) > 1:
        steps += ["flip", ["crop", {"padding": 1}], ["cutout", {"size": 2}]]
    data["augment"] = rng.sample(steps, rng.randint(1, len(steps)))


def _own_models(rng: Random, population: int, cohort: int) -> dict[str, Any]:
    """Return keys of the evaluation, drawn apart, so that what else a seed draws stays."""
    if rng.random() < 0.5:
        return {}
    evaluation: dict[str, Any] = {"clients_every": 2, "personal_steps": rng.choice([0, 1, 3])}
    if cohort < population:
        new = rng.sample(range(population), population - cohort)
        evaluation["new_clients"] = {"ids": new}
    return evaluation


def _cluster(rng: Random) -> dict[str, Any]:
    cluster: dict[str, Any] = {"state_memory": rng.choice([1 << 30, 1 << 30, 1])}
    if rng.random() < 0.25:
        cluster["groups"] = [
            {"name": "few", "actors": 1, "num_cpus": 0.5, "clients": {"fraction": 0.4}, "stack": 2},
            {"name": "rest", "actors": 1, "num_cpus": 0.5},
        ]
        return cluster
    chunk_size = rng.choice(["auto", 1, 3])
    return cluster | {"actors": 2, "num_cpus": 0.5, "chunk_size": chunk_size}


# -- what the scenarios name ---------------------------------------------------------------


def rows(
    num: int, shape: list[int], seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return points of separated classes."""
    rng = np.random.default_rng(seed)
    targets = np.arange(num) % CLASSES
    centres = rng.normal(size=(CLASSES, *shape))
    return (centres[targets] + rng.normal(size=(num, *shape))).astype(np.float32), targets


def partly_frozen() -> nn.Module:
    """Return a network whose first layer is not trained."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    model[0].requires_grad_(False)
    return model


class WithBuffers(nn.Module):
    """Centre inputs by a running mean of theirs, and count steps: buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
            self.count = self.count + 1
        logits: Tensor = self.layer(inputs - self.mean)
        return logits


def with_buffers() -> nn.Module:
    """Return a network with buffers that training changes."""
    return WithBuffers()


def small_cnn() -> nn.Module:
    """Return a network with a convolution and a norm."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES)
    )


class LowRank(nn.Module):
    """A linear layer with an adapter, and the names and the scale of peft's."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(6, 5)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 5, bias=False)})
        self.scaling = {"default": 2.0}
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs and the adapter's."""
        added: Tensor = self.lora_B["default"](self.lora_A["default"](inputs))
        outputs: Tensor = self.base_layer(inputs) + added * self.scaling["default"]
        return outputs


def adapted() -> nn.Module:
    """Return a network whose first layer has an adapter."""
    layers = {"hidden": LowRank(), "tanh": nn.Tanh(), "output": nn.Linear(5, CLASSES)}
    return nn.Sequential(OrderedDict(layers))


@dataclass(frozen=True)
class Stumble(OptiModule):
    """Raise at some clients and send NaN from others, at a step of some rounds."""

    name: ClassVar[str] = "stumble"

    failing: tuple[int, ...]
    """Whose code raises."""
    diverging: tuple[int, ...]
    """Whose gradients are not finite."""
    rounds: tuple[int, ...]
    """When."""
    step: int = 1
    """At which step of the round."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Do so, and leave the gradients of the others as they are."""
        if context.round not in self.rounds or context.step != self.step:
            return gradients, state
        if any(client in self.failing for client in context.clients):
            raise ValueError("broken sensor")
        factors = [float("nan") if c in self.diverging else 1.0 for c in context.clients]
        return gradients * (torch.tensor(factors) if gradients.stacked else factors[0]), state
