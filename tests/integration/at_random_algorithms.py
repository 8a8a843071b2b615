"""Algorithms for random scenarios: see ``at_random``."""

from __future__ import annotations

from random import Random
from typing import Any

from simfl.algorithms import Algorithm

LAST = "the last layer"

ALGORITHMS: dict[str, dict[str, Any]] = {
    "adaptive-fedprox": {"mu": 0.1, "patience": 1},
    "afl": {"lambda_lrate": 0.05},
    "apfl": {},
    "centralized": {"work": "cohort"},
    "ditto": {"own_epochs": 0.5},
    "fedbabu": {"head": [LAST], "tuning_epochs": 1},
    "feddc": {},
    "feddyn": {"alpha": 0.1},
    "fedexp": {},
    "fedlin": {},
    "fednova": {},
    "fedproto": {"layer": LAST},
    "fedrep": {"head": [LAST], "head_epochs": 2},
    "fedsgd": {},
    "flexlora": {"ranks": [2, 1]},
    "flora": {},
    "gossip": {"topology": "star"},
    "heterofl": {"widths": [1.0, 0.5]},
    "hierarchical": {"edges": 3},
    "ifca": {"models": 2},
    "local-only": {},
    "mime": {"beta": 0.5},
    "mime-lite": {"beta": 0.5},
    "moon": {"layer": LAST},
    "one-shot": {},
    "per-fedavg": {"alpha": 0.05, "steps": 2, "hessian": "differences"},
    "pfedme": {"inner_steps": 2, "eta": 0.02},
    "q-fedavg": {"q": 0.5},
    "scaffold": {},
    "superfed": {"common_rounds": 1, "mixing": "layers"},
}
"""Algorithms and their fields; ``LAST`` stands for the model's last layer."""


def choose_algorithm(scenario: dict[str, Any], rng: Random) -> None:
    """Add an algorithm to a third of the scenarios, where it goes with the rest."""
    name, model, client = rng.choice([*ALGORITHMS]), scenario["model"], scenario["client"]
    of_outputs = not {"distillation", "feddecorr", "sam"} & set(str(model["loss"]).split("'"))
    has_body = model["kind"] == "mlp" or model.get("path") == "at_random:small_cnn"
    takes_adapters = len(scenario["data"]["arguments"]["shape"]) == 1 and "layer" not in str(model)
    goes = {
        "fedbabu": has_body,
        "fedrep": has_body,
        "fedproto": of_outputs and "sclip" not in client,
        "moon": of_outputs and "sclip" not in client,
        "flexlora": takes_adapters and "sclip" not in client,
        "flora": takes_adapters,
        "heterofl": "sclip" not in client,
        "mime": "sclip" not in client,
        "mime-lite": "sclip" not in client,
        "scaffold": "sclip" not in client,
        "fedlin": "sclip" not in client,
    }
    if model.get("path") == "at_random:with_buffers":
        goes |= {n: cls.uses_optimizer for n, cls in Algorithm.registry.items()}
    keeps = Algorithm.registry[name].init is not Algorithm.init
    if rng.random() > 1 / 3 or not goes.get(name, True) or (keeps and not client["keep_state"]):
        return
    fields = {key: _named(value, model) for key, value in ALGORITHMS[name].items()}
    if name == "gossip":
        fields["nodes"] = scenario["data"]["partition"]["clients"]
    scenario["algorithm"] = [name, fields]
    scenario["model"] = _fitting(model, name)
    chosen, server = Algorithm.registry[name], scenario["server"]
    if not chosen.sends_delta:
        client["transforms"] = server["pre_aggregators"] = []
        server["aggregator"] = "mean"
    if chosen.weighted_by != Algorithm.weighted_by:
        server["weighting"] = "uniform" if chosen.weighted_by == "uniform" else "examples"
    if chosen.weighted_by not in (Algorithm.weighted_by, "uniform", "examples", "nothing"):
        server["pre_aggregators"], server["aggregator"] = [], "mean"
    steps_count = chosen.uses_optimizer and not chosen.pools_clients
    if not steps_count and "step" in str(client["optimizer"]["lrate"]):
        client["optimizer"]["lrate"][1]["unit"] = "round"
    if not chosen.uses_optimizer:
        client["optimizer"] |= {"modules": [], "regularizers": [], "w_decay": 0.0}
        modules = server["optimizer"]["modules"]
        server["optimizer"]["modules"] = [m for m in modules if m != "scaffold-server"]
    if name in ("feddc", "q-fedavg") and "cosine" in str(client["optimizer"]["lrate"]):
        client["optimizer"]["lrate"] = 0.05  # they divide by it
    _drop_ignored(scenario, chosen)


def _fitting(model: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a model for an algorithm: those on adapters need some."""
    if name not in ("flexlora", "flora"):
        return model
    return {"kind": "python", "path": "at_random:adapted", "loss": model["loss"]}


def _drop_ignored(scenario: dict[str, Any], chosen: type[Algorithm]) -> None:
    """Remove the keys that have no effect with an algorithm."""
    for key in chosen.ignores:
        owner, name = scenario, key.rpartition(".")[2]
        for section in key.split(".")[:-1]:
            owner = owner[section]
        given = owner.pop(name, None)
        if name == "modules":
            owner[name] = [module for module in given or [] if module == "scaffold-server"]


def name_weights(scenario: dict[str, Any], rng: Random) -> None:
    """Make some weights of the model personal or fixed in some of the scenarios."""
    model, client = scenario["model"], scenario["client"]
    name = str(model.get("path", model["kind"])).removeprefix("at_random:")
    personal, fixed = {
        "logistic": (["*.bias"], []),
        "mlp": (["output.bias"], ["hidden1.bias"]),
        "cnn-28": (["conv?.bias"], ["conv1.weight"]),
        "vit": (["norm"], ["tokens.positions"]),
        "partly_frozen": (["2.bias"], ["0"]),
        "with_buffers": (["mean", "layer.bias"], ["count"]),
        "small_cnn": (["norm"], ["0.bias"]),
        "adapted": (["output.bias"], []),
    }[name]
    algorithm = Algorithm.registry[scenario.get("algorithm", ["fedavg"])[0]]
    if fixed and rng.random() < 0.15:
        model["fixed"] = fixed
    can_keep = client["keep_state"] and not algorithm.pools_clients
    if can_keep and algorithm.uses_optimizer and rng.random() < 0.3:
        model["personal"] = personal


def _named(value: Any, model: dict[str, Any]) -> Any:
    """Put the name of the model's last layer in its place."""
    if isinstance(value, list):
        return [_named(item, model) for item in value]
    layers = {"partly_frozen": "2", "with_buffers": "layer", "small_cnn": "4"}
    own = layers.get(model.get("path", "").partition(":")[2], "output")
    return own if value == LAST else value


def accumulate(scenario: dict[str, Any], rng: Random) -> None:
    """Cut the batches of a quarter of the scenarios, where none depends on a batch as a whole."""
    model, client = scenario["model"], scenario["client"]
    name = scenario.get("algorithm", ["fedavg"])[0]
    wholes = {"sam", "feddecorr"} & {*str(model.get("loss")).split("'")}
    if wholes or model.get("path") == "at_random:with_buffers" or rng.random() > 0.25:
        return
    if "client.accumulate" not in Algorithm.registry[name].ignores:
        client["accumulate"] = min(rng.choice([2, 3]), client["batch_size"] or 3)
