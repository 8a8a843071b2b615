"""Which weights are personal and which are fixed, as names; the algorithm for this model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from simfl.client import ClientRecipe
from simfl.errors import ConfigError
from simfl.models import TorchModel, build_module, fixed_names, personal_names
from simfl.models.base import initial_state
from simfl.models.names import digests_of
from simfl.scenario import Scenario
from simfl.simulation.explaining import explained


def with_names(scenario: Scenario, client: ClientRecipe) -> ClientRecipe:
    """Return the recipe with the names of personal and fixed weights, and the model's algorithm.

    Raises:
        ScenarioError: if the section's names are not the model's, or cannot be combined, or the
            algorithm cannot work with the model.
    """
    section = scenario.model
    with explained(scenario, "model", "it cannot be built"):
        module = build_module(client.spec, client.shape, seed=client.seed)

    def resolved(key: str, resolve: Callable[..., Any], **others: Any) -> Any:
        try:
            return resolve(module, getattr(section, key), **others)
        except ConfigError as error:
            raise scenario.fault(f"model.{key}", str(error)) from error

    fixed = resolved("fixed", fixed_names)
    personal = resolved("personal", personal_names, fixed=fixed)
    unsent = {*fixed, *personal}
    shared = [name for name, _ in module.named_parameters() if name not in unsent]
    try:
        algorithm = client.algorithm.for_model(module, shared)
    except ConfigError as error:
        raise scenario.fault("algorithm", str(error)) from error
    client = dataclasses.replace(client, algorithm=algorithm)
    if not unsent:
        return client
    with explained(scenario, "model", "it cannot be built"):
        model = TorchModel(module, client.loss, metrics=(), fixed=fixed)
        initial = initial_state(model, client.spec, client.shape)
    return dataclasses.replace(
        client,
        fixed=fixed,
        personal=personal,
        fixed_bytes=model.fixed_weights.num_bytes,
        unsent=digests_of(model.fixed_weights | model.live_weights(personal)),
        initial=initial,
        optimizer=client.optimizer.with_personal(personal),
    )
