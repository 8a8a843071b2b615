"""OwnModels: evaluates clients with weights of their own, before and after some local steps."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch

from simfl.client.recipe import ClientRecipe
from simfl.client.trainer import ClientTrainer
from simfl.errors import ClientError, ConfigError
from simfl.messages import Broadcast
from simfl.models import TorchModel
from simfl.models.model import MetricSums
from simfl.record import GLOBAL, TUNED
from simfl.states import KeptState

_PHASE: Final = "evaluation"
"""The phase of the training, which has an optimizer state and an order of batches of its own."""


class OwnModels:
    """Evaluates a client's own models. What it trains meanwhile is forgotten.

    Args:
        recipe: the scenario's part of it.
        trainer: makes a client's Local.
        model: overwritten with the weights to be evaluated.
    """

    def __init__(self, recipe: ClientRecipe, trainer: ClientTrainer, model: TorchModel) -> None:
        self._recipe = recipe
        self._trainer = trainer
        self._model = model

    def evaluate(
        self,
        client: int,
        state: KeptState | None,
        broadcast: Broadcast,
        models: Sequence[str],
        evaluate: Callable[[int], MetricSums],
    ) -> list[MetricSums]:
        """Evaluate some of a client's models; return the sums for each.

        A client whose own code raises has no values if the scenario says to drop it.

        Args:
            client: its id.
            state: what it has kept; None if it has not trained.
            broadcast: the server's weights.
            models: GLOBAL, the server's but for personal weights; or PERSONAL, TUNED or both.
            evaluate: evaluates the model as it is on a client's own examples.

        Raises:
            ConfigError: if it cannot train with this scenario.
            ClientError: if its own code raises and the scenario says to raise.
            torch.cuda.OutOfMemoryError: if the device is full, which is no error of the client.
        """
        try:
            made = self._make(client, state, broadcast, models)
            return [evaluate(client) for _ in made]
        except (ConfigError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            if self._recipe.work.on_failure == "drop":
                keys = [metric.key for metric in self._recipe.build_metrics()]
                return [{"loss": (0.0, 0.0), **dict.fromkeys(keys, ())} for _ in models]
            raise ClientError(
                f"client {client} failed in its evaluation after round {broadcast.round - 1}: "
                f"{type(error).__name__}: {error}",
                client=client,
                round=broadcast.round - 1,
                client_traceback=traceback.format_exc(),
            ) from error

    def _make(
        self, client: int, state: KeptState | None, broadcast: Broadcast, models: Sequence[str]
    ) -> Iterator[str]:
        """Put the weights of each model in turn into the model, and yield its name."""
        local = self._trainer.local(client, broadcast, state)
        weights = local.weights
        if GLOBAL not in models:
            weights = weights | self._recipe.algorithm.personal(local)
        for model in models:
            if model == TUNED:
                steps = self._recipe.personal_steps
                weights = local.train(weights, phase=_PHASE, steps=steps)
            self._model.set_weights(broadcast.weights | local.personal.fill_in(weights))
            yield model
