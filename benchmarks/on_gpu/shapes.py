"""Models and data whose steps are timed: dense, convolutions, a block of a transformer, LoRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import simfl
from simfl.client import ClientHost, ClientRecipe
from simfl.data import FederatedDataset
from simfl.messages import Broadcast, Chunk
from simfl.simulation import build

__all__ = ["BATCH", "SHAPES", "STEPS", "Shape", "Trained", "images", "sentences"]

STEPS, BATCH = 4, 10
"""Of a client."""
_WORDS, _TOKENS = 1000, 32
_LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": _WORDS,
}


@dataclass(frozen=True)
class Shape:
    """A model, and the shape of one input."""

    name: str
    kind: str
    """``dense``, ``convolution``, ``transformer`` or ``lora``."""
    model: dict[str, Any]
    """The scenario's section."""
    inputs: tuple[int, ...]
    """Empty: sentences."""


SHAPES = (
    Shape("784-200-10", "dense", {"kind": "mlp", "hidden": [200]}, (784,)),
    Shape("cnn-32", "convolution", {"kind": "cnn-32", "dropout1": 0, "dropout2": 0}, (3, 32, 32)),
    Shape(
        "vit block",
        "transformer",
        {"kind": "vit", "patch": 4, "dim": 192, "depth": 1},
        (3, 32, 32),
    ),
    Shape(
        "llama lora",
        "lora",
        {
            "kind": "huggingface",
            "config": _LLAMA,
            "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]},
            "loss": ["cross-entropy", {"over": "tokens"}],
        },
        (),
    ),
    Shape("64-64-10", "dense", {"kind": "mlp", "hidden": [64]}, (64,)),
    Shape("resnet", "convolution", {"kind": "resnet"}, (3, 32, 32)),
    Shape("2048-2048-2048-10", "dense", {"kind": "mlp", "hidden": [2048, 2048]}, (2048,)),
)
"""The most telling first."""


def images(clients: int, shape: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    """Make normal inputs of a shape for clients that take ``STEPS`` steps each."""
    rng = np.random.default_rng(0)
    client = np.repeat(np.arange(clients), STEPS * BATCH)
    inputs = rng.standard_normal((len(client), *shape), dtype=np.float32)
    return {"inputs": inputs, "targets": rng.integers(10, size=len(client)), "client": client}


def sentences(clients: int) -> dict[str, np.ndarray[Any, Any]]:
    """Make random tokens, and the next ones as targets."""
    client = np.repeat(np.arange(clients), STEPS * BATCH)
    tokens = np.random.default_rng(0).integers(_WORDS, size=(len(client), _TOKENS + 1))
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "client": client}


@dataclass(frozen=True)
class Trained:
    """What trains clients of a shape in one process."""

    recipe: ClientRecipe
    dataset: FederatedDataset
    broadcast: Broadcast
    num_weights: int
    """Trained ones of a client."""

    @classmethod
    def of(cls, shape: Shape, *, clients: int) -> Trained:
        """Build the recipe and the data of some clients.

        Raises:
            SimflError: if a package is missing that the model needs.
        """
        simulation = build(simfl.load_scenario(_scenario(shape, clients)))
        model = simulation.client.build_model()
        shared = [name for name in model.shared_names if name not in simulation.client.personal]
        weights = model.get_weights().select(shared)
        num_weights = sum(weight.numel() for weight in model.trainable.values())
        return cls(simulation.client, simulation.dataset, Broadcast(1, weights, {}), num_weights)

    def host(self, *, stack: int, device: str) -> ClientHost:
        """Return a host that trains stacks of a size."""
        recipe = replace(self.recipe, stack=stack)
        return ClientHost(recipe, self.dataset, device="cuda:0" if device == "cuda" else device)

    def train(self, host: ClientHost, clients: int) -> None:
        """Train the first clients; a GPU is done when it returns."""
        chunk = Chunk(1, 0, tuple(range(clients)), clients)
        host.train_chunk(chunk, self.broadcast, [None] * clients)


def _scenario(shape: Shape, clients: int) -> dict[str, Any]:
    here = Path(__file__).resolve()
    made = ("images", {"clients": clients, "shape": list(shape.inputs)})
    function, arguments = made if shape.inputs else ("sentences", {"clients": clients})
    return {
        "rounds": 1,
        "search": [str(here.parent)],
        "data": {"source": "python", "path": f"{here.stem}:{function}", "arguments": arguments},
        "model": shape.model,
        "client": {
            "per_round": clients,
            "batch_size": BATCH,
            "epochs": 1,
            "stack": 1,
            "keep_state": False,
            "optimizer": {"lrate": 0.01},
        },
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
    }
