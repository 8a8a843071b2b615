"""What configs name: of custom.yaml data, a model and a module; of imbalanced.yaml the data."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from simfl.component import Fraction
from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector


def two_moons(examples: int, noise: float) -> dict[str, np.ndarray]:
    """Return the arrays of an npz source: inputs, targets, a client per row, and a test split."""
    rng = np.random.default_rng(0)
    inputs, targets, angles = _moons(rng, examples, noise)
    test_inputs, test_targets, _ = _moons(rng, 500, noise)
    return {
        "inputs": inputs,
        "targets": targets,
        "client": (angles / np.pi * 20).astype(np.int64),  # each sees one stretch of both moons
        "test_inputs": test_inputs,
        "test_targets": test_targets,
    }


def one_digit(digit: int) -> dict[str, np.ndarray]:
    """Return scikit-learn's 1,797 digits, with class 1 for one of them: a tenth of the images."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    inputs, targets = (images[order] / 16).astype(np.float32), (digits[order] == digit)
    return {
        "inputs": inputs[360:],
        "targets": targets[360:].astype(np.int64),
        "test_inputs": inputs[:360],
        "test_targets": targets[:360].astype(np.int64),
    }


def small_network(hidden: int) -> nn.Module:
    """Return any torch module; its initial weights are where the run starts."""
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))


@dataclass(frozen=True)
class NormScaling(OptiModule):
    """Scale each tensor's gradient by ||g|| ** -strength: from 0, as it is, to 1, a unit vector."""

    name: ClassVar[str] = "norm-scaling"

    strength: Fraction = 0.5
    """How far the norms are evened out."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Divide each tensor by a power of its norm."""
        norms = gradients.norms()
        scaled = {
            name: Vector({name: tensor}, stacked=gradients.stacked)
            * norms[name].clamp(min=1e-12) ** -self.strength
            for name, tensor in gradients.items()
        }
        return Vector({n: v[n] for n, v in scaled.items()}, stacked=gradients.stacked), state


def _moons(
    rng: np.random.Generator, examples: int, noise: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    targets = rng.integers(0, 2, examples)
    angles = rng.uniform(0, np.pi, examples)
    side = 1 - 2 * targets
    inputs = np.stack([targets + side * np.cos(angles), targets * 0.5 + side * np.sin(angles)], 1)
    inputs += rng.normal(0, noise, inputs.shape)
    return inputs.astype(np.float32), targets, angles
