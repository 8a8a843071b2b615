"""Data for random scenarios, see ``at_random``: sequences of tokens, with models of Hugging Face;
clients with test examples of their own; and tables."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from torch import nn

from simfl.data import Ragged, Vocabulary

WORDS, CLASSES = 7, 3
_SIZE = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def speak(scenario: dict[str, Any], rng: Random) -> None:
    """Give some of the scenarios of one model sequences of tokens, and a loss over these."""
    named = {"algorithm", "personal", "fixed"} & {*scenario, *scenario["model"]}
    if named or rng.random() < 0.8:
        return
    over = ["cross-entropy", {"over": "tokens"}]
    loss = rng.choice(["cross-entropy", over, over, ["sam", {"of": over}]])
    scenario["model"] = {"kind": "python", "path": "at_random_data:token_model", "loss": loss}
    data, server = scenario["data"], scenario["server"]
    data |= {"path": "at_random_data:sentences", "arguments": {"num": data["arguments"]["num"]}}
    if data["partition"]["kind"] not in ("iid", "quantity"):
        data["partition"] = {"kind": "iid", "clients": data["partition"]["clients"]}
    scenario["client"].pop("sclip", None)
    scenario["evaluation"]["metrics"] = ["perplexity", "token-accuracy", "exact-match"]
    if server["weighting"] == "steps":
        server["weighting"] = "tokens"


def fine_tune(scenario: dict[str, Any], rng: Random) -> None:
    """Give some of the scenarios of one model a Llama for tokens, or a BERT for classes."""
    named = {"algorithm", "personal", "fixed"} & {*scenario, *scenario["model"]}
    speaks = scenario["model"].get("path") == "at_random_data:token_model"
    if named or rng.random() > (0.3 if speaks else 0.05) or find_spec("peft") is None:
        return
    model: dict[str, Any] = {"kind": "huggingface", "attention": "eager"}
    model |= {"dtype": rng.choice(["float32", "float32", "bf16"])}
    lora = {"rank": 2, "dropout": rng.choice([0.0, 0.2])}
    if speaks:
        model |= {"config": _SIZE | {"model_type": "llama"}, "loss": scenario["model"]["loss"]}
        model["gradient_checkpointing"] = rng.random() < 0.3
        model |= rng.choice(
            [
                {"lora": lora | {"targets": ["q_proj", "v_proj"]}},
                {"lora": lora | {"targets": ["q_proj"]}, "train": ["*lora_B*"]},
                {"train": ["lm_head"]},
            ]
        )
    else:
        config = _SIZE | {"model_type": "bert", "attention_probs_dropout_prob": 0.0}
        model |= {"config": config, "task": "sequence-classification"}
        model |= rng.choice([{"lora": lora | {"targets": ["query"]}}, {"train": "head"}])
        scenario["data"] |= {"path": "at_random_data:titles"}
        scenario["data"]["arguments"] = {"num": scenario["data"]["arguments"]["num"]}
    scenario["model"] = model
    scenario["client"].pop("sclip", None)


# -- what the scenarios name ---------------------------------------------------------------


def sentences(num: int, seed: int) -> tuple[Ragged, Ragged]:
    """Return sequences of 1 to 11 tokens below 7, of which the first ones may not count."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, num)
    begins = np.cumsum(lengths + 1) - lengths - 1
    values = (np.arange(begins[-1] + lengths[-1] + 1) * rng.integers(1, 7) % 7).astype(np.uint16)
    hidden = rng.integers(0, lengths)
    inputs = Ragged(values, begins, lengths, 11, Vocabulary(7))
    return inputs, Ragged(values, begins + 1, lengths, 11, Vocabulary(7), -100, hidden)


def token_model() -> nn.Module:
    """Return a network that predicts each token from the one before."""
    return nn.Sequential(nn.Embedding(7, 5), nn.Tanh(), nn.Linear(5, 7))


def titles(num: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return rows of tokens whose class is their stride."""
    targets = np.arange(num) % CLASSES
    begins = np.random.default_rng(seed).integers(0, WORDS, num)
    return (begins[:, None] + (targets[:, None] + 1) * np.arange(5)) % WORDS, targets


def give_tests(scenario: dict[str, Any], rng: Random) -> None:
    """Evaluate some scenarios' clients on test examples with their ids."""
    data = scenario["data"]
    if data.get("path") != "at_random:rows" or rng.random() >= 0.15:
        return
    clients = data["partition"]["clients"]
    scenario["data"] = {
        **data,
        "path": "at_random_data:rows_of_clients",
        "arguments": {**data["arguments"], "clients": clients},
        "partition": {"kind": "natural"},
        "test_fraction": 0.0,
        "holdout_fraction": 0.0,
        "client_tests": True,
    }


def read_table(scenario: dict[str, Any], rng: Random) -> None:
    """Give some scenarios a table of numbers and categories, of which some are missing."""
    data, model = scenario["data"], scenario["model"]
    is_plain = data.get("path") == "at_random:rows" and model["kind"] in ("logistic", "mlp")
    if not is_plain or "augment" in str(data) or rng.random() >= 0.3:
        return
    kept = ("partition", "test_fraction", "holdout_fraction", "public")
    scenario["data"] = {key: data[key] for key in kept if key in data} | {
        "source": "csv",
        "path": str(Path(__file__).with_name("mixed.csv")),
        "target": "label",
        "numbers": "standardize",
        "categories": "one-hot",
        "missing": rng.choice(["median", "most-frequent", "leave-out"]),
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
