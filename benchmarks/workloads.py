"""What is measured: shapes of populations, cohorts and models, with data made by numpy.

Needs numpy alone, so that other frameworks' environments can read it. There is no dropout: with the
same cohorts, batches and first weights, every framework gets the same losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["WORKLOADS", "Workload", "find_workload", "make_examples", "make_single_examples"]

CLASSES = 10
_SEED = 0
_BLOCK = 64
"""Examples that are made at a time, in the processor's caches."""


@dataclass(frozen=True)
class Workload:
    """A population, what a client does in a round, and the model."""

    name: str
    population: int
    examples: tuple[int, int]
    """The fewest and the most that a client holds."""
    shape: tuple[int, ...]
    """Of one input."""
    cohort: int
    model: dict[str, Any]
    """The scenario's section."""
    batch_size: int | None = 10
    epochs: int | None = 1
    steps: int | None = None
    """Steps a round, instead of epochs."""
    lrate: float = 0.1
    momentum: float = 0.0
    """Of a client's steps, from zero in each round."""
    prox: float = 0.0
    """FedProx's alpha."""
    scaffold: bool = False
    """Whether both sides keep control variates."""
    as_bytes: bool = False
    """Whether inputs are kept as bytes, which stand for 255ths."""
    vocabulary: int | None = None
    """How many tokens there are, if inputs are tokens; the next one is to be predicted."""
    loops: tuple[str, ...] = ("plain", "fused", "vmap")
    """The bare loops that are worth comparing with."""

    def scaled(self, scale: float) -> Workload:
        """Shrink every count, for a smoke test."""
        if scale == 1.0:
            return self
        least, most = self.examples
        shape = self.shape if len(self.shape) == 1 else _scaled_image(self.shape, scale)
        return replace(
            self,
            population=max(8, round(self.population * scale)),
            cohort=max(4, round(self.cohort * scale)),
            examples=(max(3, round(least * scale)), max(3, round(most * scale))),
            shape=shape,
            model=_scaled_model(self.model, scale),
            batch_size=self.batch_size and max(2, round(self.batch_size * scale)),
        )

    def num_examples(self) -> np.ndarray[Any, Any]:
        """Return how many examples each client holds, [population]."""
        least, most = self.examples
        spread = np.random.default_rng(_SEED).integers(least, most + 1, self.population)
        return spread.astype(np.int64)

    def make_examples(self) -> dict[str, np.ndarray[Any, Any]]:
        """Make the data of all clients; see the function of this name."""
        return make_examples(self.num_examples().tolist(), list(self.shape), **self._kind_of_data())

    def scenario(self, *, rounds: int) -> dict[str, Any]:
        """Return simfl's scenario: two client actors, and nothing but the training."""
        here = Path(__file__).resolve()
        arguments: dict[str, Any] = {
            "num_examples": self.num_examples().tolist(),
            "shape": list(self.shape),
            **self._kind_of_data(),
        }
        return {
            "name": self.name,
            "rounds": rounds,
            "seed": _SEED,
            "search": [str(here.parent)],
            "data": {
                "source": "python",
                "path": f"{here.stem}:{make_examples.__name__}",
                "arguments": arguments,
                "divide_by": 255 if self.as_bytes else None,
            },
            "model": self.model,
            "client": {
                "per_round": self.cohort,
                "batch_size": self.batch_size,
                "epochs": self.epochs if self.steps is None else None,
                "steps": self.steps,
                # SCAFFOLD's variates are kept; momentum is reset, as in the bare loops.
                "keep_state": self.scaffold,
                "optimizer": {
                    "lrate": self.lrate,
                    "regularizers": [["fedprox", {"alpha": self.prox}]] if self.prox else [],
                    "modules": self._client_modules(),
                },
            },
            "server": {"optimizer": {"modules": ["scaffold-server"] if self.scaffold else []}},
            "evaluation": {"every": 0},
            "checkpoint": {"every": 0},
            "cluster": {"actors": 2},
        }

    def _kind_of_data(self) -> dict[str, Any]:
        return {"as_bytes": self.as_bytes, "vocabulary": self.vocabulary}

    def _client_modules(self) -> list[Any]:
        modules: list[Any] = ["scaffold-client"] if self.scaffold else []
        return modules + ([["momentum", {"beta": self.momentum}]] if self.momentum else [])


def make_examples(
    num_examples: list[int],
    shape: list[int],
    as_bytes: bool = False,
    vocabulary: int | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Make classes of normal inputs around a centre each, which a model learns in tens of rounds.

    Args:
        num_examples: how many each client holds.
        shape: of an input.
        as_bytes: whether inputs are to be bytes, as those of images are.
        vocabulary: of the sequences that inputs are to be instead; see ``_sequences``.

    Returns:
        ``inputs`` [N, *shape] float32, bytes or tokens, ``targets`` [N] and ``client`` [N], client
        after client.
    """
    rng = np.random.default_rng(_SEED)
    total = sum(num_examples)
    if vocabulary is not None:
        tokens = _sequences(rng, total, shape[0] + 1, vocabulary)
        of = np.repeat(np.arange(len(num_examples)), num_examples)
        return {"inputs": tokens[:, :-1], "targets": tokens[:, -1], "client": of}
    targets = rng.integers(0, CLASSES, total)
    centres, scale = _image_centres(rng, *shape) if len(shape) == 3 else _centres(rng, *shape)
    inputs = np.empty((total, *shape), np.float32)
    for begin in range(0, total, _BLOCK):
        block = inputs[begin : begin + _BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= scale
        block += centres[targets[begin : begin + _BLOCK]]
    return {
        "inputs": _to_bytes(inputs) if as_bytes else inputs,
        "targets": targets,
        "client": np.repeat(np.arange(len(num_examples)), num_examples),
    }


def _to_bytes(inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Map -1.5 to 0 and 1.5 to 255; values beyond five deviations are clipped."""
    pixels = np.empty(inputs.shape, np.uint8)
    for row, image in enumerate(inputs):
        pixels[row] = np.clip(image * 85 + 127.5, 0, 255).round()
    return pixels


def make_single_examples(clients: int, features: int) -> dict[str, np.ndarray[Any, Any]]:
    """Make one example for each client, so that a client's work is the same in any population."""
    return make_examples([clients], [features]) | {"client": np.arange(clients)}


def _sequences(
    rng: np.random.Generator, num: int, length: int, vocabulary: int
) -> np.ndarray[Any, Any]:
    """Return sequences [num, length]; after each token comes a certain one, four times of five."""
    after = rng.permutation(vocabulary)
    tokens = rng.integers(0, vocabulary, (num, length))
    follows = rng.random((num, length)) < 0.8
    for place in range(1, length):
        certain = follows[:, place]
        tokens[certain, place] = after[tokens[certain, place - 1]]
    return tokens


def _centres(rng: np.random.Generator, features: int) -> tuple[np.ndarray[Any, Any], np.float32]:
    """Return centres [classes, features], and the noise's deviation.

    They are 2.8 deviations apart: a twelfth of two classes' examples are on the other one's side.
    """
    centres = rng.standard_normal((CLASSES, features), dtype=np.float32)
    return centres * np.float32(2 / math.sqrt(features)), np.float32(1)


def _image_centres(
    rng: np.random.Generator, channels: int, height: int, width: int
) -> tuple[np.ndarray[Any, Any], np.float32]:
    """Return centres [classes, channels, height, width] of large blocks, which convolutions see.

    Numbers are as large as those of images, so that a rate of 0.1 does no harm.
    """
    blocks = rng.standard_normal((CLASSES, channels, 4, 4), dtype=np.float32) * np.float32(0.05)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return blocks[:, :, rows][..., columns], np.float32(0.3)


def find_workload(name: str, *, scale: float = 1.0) -> Workload:
    """Return a workload by its name.

    Raises:
        SystemExit: if there is none of that name.
    """
    if name not in WORKLOADS:
        raise SystemExit(f"there is no workload {name!r}; choose from {', '.join(WORKLOADS)}")
    return WORKLOADS[name].scaled(scale)


def _scaled_image(shape: tuple[int, ...], scale: float) -> tuple[int, ...]:
    channels, *sides = shape
    return (channels, *(max(8, round(side * scale)) for side in sides))


def _scaled_model(model: dict[str, Any], scale: float) -> dict[str, Any]:
    if "hidden" not in model:
        return model
    widths = model["hidden"]
    several = widths if isinstance(widths, list) else [widths]
    scaled = [max(8, round(width * scale)) for width in several]
    return model | {"hidden": scaled if isinstance(widths, list) else scaled[0]}


_CNN32 = {"kind": "cnn-32", "dropout1": 0.0, "dropout2": 0.0}

_ALL = (
    Workload(  # compute: 1,626,442 parameters
        "W1",
        1000,
        (50, 50),
        (3, 32, 32),
        cohort=50,
        model=_CNN32,
        loops=("plain", "fused", "tuned"),
    ),
    Workload(  # the same with images of bytes, as data sets have them
        "W1-bytes",
        1000,
        (50, 50),
        (3, 32, 32),
        cohort=50,
        model=_CNN32,
        as_bytes=True,
        loops=("plain", "fused", "tuned"),
    ),
    Workload(  # overhead: 4,810 parameters
        "W2",
        10_000,
        (20, 20),
        (64,),
        cohort=500,
        model={"kind": "mlp", "hidden": [64]},
        loops=("fused", "vmap", "batched"),
    ),
    Workload(  # volume: 25,214,986 parameters
        "W3",
        100,
        (10, 10),
        (2048,),
        cohort=10,
        model={"kind": "mlp", "hidden": [4096, 4096]},
        epochs=None,
        steps=1,
        loops=("plain", "fused", "tuned"),
    ),
    Workload(  # state
        "W4",
        100,
        (50, 50),
        (3, 32, 32),
        cohort=10,
        model=_CNN32,
        scaffold=True,
        loops=("plain", "fused", "tuned"),
    ),
    Workload(  # ragged: 159,010 parameters, 1 to 12 steps
        "ragged",
        1000,
        (5, 120),
        (784,),
        cohort=100,
        model={"kind": "mlp", "hidden": [200]},
        loops=("fused", "vmap"),
    ),
    Workload(  # FedAvg's CNN: 1,663,370 parameters
        "cnn28",
        200,
        (20, 40),
        (1, 28, 28),
        cohort=20,
        model={"kind": "cnn-28"},
        loops=("fused", "tuned", "vmap"),
    ),
    Workload(  # momentum and FedProx: 9,610 parameters
        "prox",
        1000,
        (40, 40),
        (64,),
        cohort=100,
        model={"kind": "mlp", "hidden": [128]},
        epochs=2,
        momentum=0.9,
        prox=0.1,
        lrate=0.02,
        loops=("fused", "vmap"),
    ),
    Workload(  # deeper: many small tensors
        "deep",
        1000,
        (30, 30),
        (32,),
        cohort=100,
        model={"kind": "mlp", "hidden": [32] * 4},
        loops=("fused", "vmap", "batched"),
    ),
    Workload(  # recurrent: 213,712 parameters
        "lstm",
        200,
        (20, 40),
        (40,),
        cohort=20,
        model={"kind": "char-lstm", "hidden": 128, "vocabulary": 80},
        vocabulary=80,
        loops=("plain", "fused"),
    ),
    Workload(  # attention: 79,312 parameters, a module of the user's
        "transformer",
        200,
        (20, 40),
        (32,),
        cohort=20,
        model={"kind": "python", "path": "models:make_transformer"},
        vocabulary=80,
        loops=("plain", "fused", "tuned"),
    ),
    Workload(  # residual, with GroupNorm: 78,042 parameters
        "resnet",
        100,
        (20, 40),
        (3, 32, 32),
        cohort=10,
        model={"kind": "resnet"},
        lrate=0.01,  # at 0.1 two roundings are 1e-4 apart after two rounds
        loops=("plain", "fused", "tuned"),
    ),
)
WORKLOADS = {workload.name: workload for workload in _ALL}
"""W1 to W4 are those of the README; the others have other shapes."""
