"""The package as it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import simfl
import simfl.models
from simfl.models import Loss, Metric, ModelSpec

STEP = """
import sys, torch
from simfl.models import Batch, TorchModel
model = TorchModel(torch.nn.Linear(2, 3))
batch = Batch(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
model.apply_updates(model.compute_batch_gradients(batch) * -0.1)
model.evaluate(batch)
model.set_weights(model.get_weights())
print([name for name in ("torch._dynamo", "pandas", "sklearn", "ray") if name in sys.modules])
"""


def test_every_public_name_exists() -> None:
    assert all(hasattr(simfl.models, name) for name in simfl.models.__all__)


def test_the_built_in_components_are_registered() -> None:
    models = {"char-lstm", "cnn-28", "cnn-32", "logistic", "mlp", "python", "resnet"}
    models |= {"centers", "gaussian-mixture", "histogram"}
    assert models <= set(ModelSpec.registry)
    losses = {"bce-with-logits", "cross-entropy", "huber", "mae", "mse", "output", "python"}
    assert losses <= set(Loss.registry)
    assert {"accuracy", "mae", "mse", "top-k"} <= set(Metric.registry)


def test_a_training_step_does_not_import_the_compiler_of_torch() -> None:
    """Its import takes seconds, in every actor."""
    root = str(Path(simfl.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", STEP],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert run.stdout.strip() == "[]"
