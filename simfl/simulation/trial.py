"""A training step and an evaluation before anything is started, to find errors early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from simfl.aggregation import Mean
from simfl.algorithms import FedAvg, ServerSide, Total, returned
from simfl.client import ClientHost, ClientRecipe, LocalWork, read_batch
from simfl.data import FederatedDataset
from simfl.data.augment import check_augmentation
from simfl.engine import give_back_freed_memory
from simfl.errors import ConfigError
from simfl.messages import Broadcast, Chunk, ChunkResult, EvaluationChunk, Partial, Snapshot
from simfl.models import Batch, Metric, TorchModel, as_metrics
from simfl.models.layers import mixes_examples
from simfl.models.model import take_examples
from simfl.models.names import digests_of, resolve_names
from simfl.record import PERSONAL
from simfl.scenario import Scenario
from simfl.seeding import global_generators
from simfl.server import ServerRecipe
from simfl.simulation.explaining import explained
from simfl.states import Kept, KeptState
from simfl.transforms import shapes_of
from simfl.vector import Vector

_Column: TypeAlias = "np.ndarray[Any, Any]"

_MOST_ROWS: Final = 7
"""Enough to distinguish one example from several; rarely equal to the number of classes."""


def try_step(
    scenario: Scenario, client: ClientRecipe, server: ServerRecipe, dataset: FederatedDataset
) -> None:
    """Build the model, train one client for one step on a few examples, and evaluate as many.

    A client with a batch of a single example is tested, too. With GPUs there is no test, since
    models may need one. If failing clients are dropped, only a ConfigError here is an error.

    Raises:
        ScenarioError: if something fails, with the line of the user's code if it was the cause.
    """
    _collect(client)
    with explained(scenario, "model", "it cannot be built"):
        snapshot = server.build().snapshot(1)
        _collect(client)
        usual = as_metrics(client.loss.default_metrics)
        model = replace(
            client, metrics=usual, work=replace(client.work, precision="float32")
        ).build_model()
    _require_reproducible(scenario, client, server, model)
    _require_separate_examples(scenario, model)
    _collect(client)
    _check_transforms(scenario, client, model)
    _check_augmentation(scenario, dataset)
    sections = scenario.cluster.groups or (scenario.cluster,)
    num_examples = dataset.num_train_examples()
    if any(section.num_gpus for section in sections) or not num_examples.any():
        return
    rows = np.arange(min(_MOST_ROWS, len(dataset.train)))
    with global_generators(), explained(scenario, "model", "a first evaluation fails"):
        model.evaluate(read_batch(dataset.train, rows))
    now = model.module.state_dict(keep_vars=True)
    if replaced := [name for name in model.trainable if now[name] is not model.trainable[name]]:
        message = f"{replaced[0]!r} is another Parameter after a call; write to it instead"
        raise scenario.fault("model", message)
    metrics = [m for m in client.build_metrics() if type(m).__module__.startswith("simfl.")]
    _try_longest(scenario, dataset, model, [m for m in metrics if m.calls_model])
    _try_metrics(
        scenario, [m for m in metrics if not m.calls_model], model, read_batch(dataset.train, rows)
    )
    if client.fixed:
        _require_unchanged(scenario, model, read_batch(dataset.train, rows), client.unsent)
    work = client.work
    if work.sclip or work.accumulate > 1 or not client.algorithm.uses_optimizer:
        _require_fixed_buffers(scenario, model, read_batch(dataset.train, rows))
    _try_training(scenario, client, server, dataset, snapshot, model)


def _try_longest(
    scenario: Scenario, dataset: FederatedDataset, model: TorchModel, metrics: Sequence[Metric]
) -> None:
    """Check that the model takes the longest sequence: it may have fewer positions.

    Metrics that call it are tried, too: they may append to the sequence.
    """
    for examples in (dataset.train, dataset.test):
        if examples is None or (row := examples.longest) is None:
            continue
        what = "the evaluation of the longest example fails"
        remedy = "lower data.max_tokens, or use a model with more positions"
        batch = read_batch(examples, np.array([row]))
        with global_generators(), explained(scenario, "model", what, remedy):
            model.evaluate(batch)
        for metric in metrics:
            what = f"{metric.key} of the longest example fails"
            with global_generators(), explained(scenario, "evaluation.metrics", what, remedy):
                model.call_metric(metric, batch)


def _try_metrics(
    scenario: Scenario, metrics: Sequence[Metric], model: TorchModel, batch: Batch
) -> None:
    """Check that simfl's own metrics are of such outputs and targets; others may need more rows."""
    with global_generators(), torch.no_grad():
        outputs = model.evaluation_outputs(batch)
        for metric in metrics:
            try:
                metric.sums(outputs, batch.targets)
            except ConfigError as error:
                raise scenario.fault("evaluation.metrics", str(error)) from error


def _try_training(
    scenario: Scenario,
    client: ClientRecipe,
    server: ServerRecipe,
    dataset: FederatedDataset,
    snapshot: Snapshot,
    model: TorchModel,
) -> None:
    """Train a client for one step, on several examples and on one if either occurs."""
    num_examples = dataset.num_train_examples()
    some = int(np.argmax(num_examples >= min(2, num_examples.max())))
    size = min(client.work.batch_size or _MOST_ROWS, _MOST_ROWS)
    takes_several = min(size, num_examples[some]) > 1
    if takes_several:
        with explained(scenario, "model", "a first step of training fails"):
            first = _train(client, dataset, snapshot.broadcast, some, size)
            _try_server(server, snapshot, first)
        with explained(scenario, "model", "a first evaluation of a client fails"):
            _try_evaluation(client, dataset, snapshot.broadcast, first)
    alone = np.flatnonzero(_trains_on_one(client.work, num_examples))
    if len(alone):
        attempt: AbstractContextManager[None] = explained(
            scenario, "model", "a first step of training fails"
        )
        few = read_batch(dataset.train, np.arange(min(2, len(dataset.train))))
        if takes_several or _needs_two(model, few):
            attempt = _explained_for_one(scenario, int(alone[0]), int(num_examples[alone[0]]))
        with attempt:
            _train(client, dataset, snapshot.broadcast, int(alone[0]), 1)


def _collect(client: ClientRecipe) -> None:
    """Release models that were built before, if they are large."""
    if client.initial is not None:
        give_back_freed_memory()


def _needs_two(model: TorchModel, batch: Batch) -> bool:
    """Return whether the model can be trained on two examples, but not on one."""
    try:
        with global_generators():
            model.compute_loss_and_gradients(batch)
            with suppress(Exception):
                model.compute_loss_and_gradients(take_examples(batch, slice(1)))
                return False
    except Exception:
        return False
    return len(batch.targets) > 1


def _explained_for_one(
    scenario: Scenario, client: int, num_examples: int
) -> AbstractContextManager[None]:
    """Turn an exception for a batch of one example into an error with a remedy."""
    if scenario.client.batch_size == 1:
        return explained(
            scenario,
            "client.batch_size",
            "is 1, and training on a single example fails",
            "raise it, or use GroupNorm instead of BatchNorm",
        )
    if num_examples == 1:
        least = getattr(scenario.data.partition, "min_examples", None)
        remedy = "give each client two examples or more"
        if least is not None:
            remedy = f"set data.partition.min_examples: {max(2, least + 1)}"
        what = f"client {client} has 1 example, and training on a single one fails"
        return explained(scenario, "data", what, remedy)
    return explained(
        scenario,
        "client.batch_size",
        f"client {client} has {num_examples} examples, so that one batch is a single one, on which "
        "training fails",
        "set client.drop_last: true or another client.batch_size",
    )


def _require_separate_examples(scenario: Scenario, model: TorchModel) -> None:
    """Check that no layer computes an example otherwise in a micro-batch than in its batch."""
    if scenario.client.accumulate == 1:
        return
    model.enter_training()
    for name, layer in model.module.named_modules():
        if mixes_examples(layer):
            raise scenario.fault(
                "client.accumulate",
                f"is {scenario.client.accumulate}, but layer {name!r} ({type(layer).__name__}) "
                "works with statistics of the batch, which are others in micro-batches; use "
                "GroupNorm instead of BatchNorm, or name the layer in model.fixed",
            )


def _require_fixed_buffers(scenario: Scenario, model: TorchModel, batch: Batch) -> None:
    """Check that training changes no buffer, which clipping would not bound.

    Nor would the steps that an algorithm takes itself change it, and micro-batches would several
    times in a step.
    """
    before = model.get_weights()
    with global_generators(), suppress(Exception):  # a failure shows in the step that follows
        model.compute_loss_and_gradients(batch)
    after = model.get_weights()
    buffers = [name for name in model.shared_names if name not in model.trainable]
    changed = [name for name in buffers if not torch.equal(before[name], after[name])]
    algorithm = scenario.algorithm
    if changed and not algorithm.uses_optimizer:
        raise scenario.fault(
            "algorithm",
            f"{algorithm.name!r} takes steps of its own, which leave buffers as they are, but "
            f"training changes the model's {changed[0]!r}; use GroupNorm instead of BatchNorm, or "
            "name the layer in model.fixed",
        )
    changed += {*model.held.changed()} & {name for name, _ in model.module.named_buffers()}
    model.set_weights(before)
    if changed and scenario.client.accumulate > 1:
        raise scenario.fault(
            "client.accumulate",
            f"is {scenario.client.accumulate}, but training changes the buffer {changed[0]!r}, "
            "which each micro-batch would do; use GroupNorm instead of BatchNorm, or freeze the "
            "buffer",
        )
    if changed and scenario.client.sclip:
        raise scenario.fault(
            "client.sclip",
            f"is {scenario.client.sclip}, but training changes the buffer {changed[0]!r}, and "
            "clipping does not bound what one example adds to it; use GroupNorm instead of "
            "BatchNorm, or freeze the buffer",
        )


def _train(
    recipe: ClientRecipe,
    dataset: FederatedDataset,
    start: Broadcast,
    client: int,
    size: int,
) -> ChunkResult[Partial, KeptState]:
    """Train a client, in two rounds if they may differ; return what the first comes to."""
    work = replace(recipe.work, epochs=None, steps=1, batch_size=size, on_nonfinite="drop")
    recipe = replace(recipe, work=work, stack=1)
    host = ClientHost(recipe, dataset)
    first = host.train_chunk(Chunk(1, 0, (client,), 1), start, [None])
    if type(recipe.algorithm) is not FedAvg:  # its rounds may differ
        host.train_chunk(Chunk(2, 0, (client,), 1), replace(start, round=2), _kept(first))
    return first


def _kept(first: ChunkResult[Partial, KeptState]) -> list[KeptState | None]:
    return [one.state if isinstance(one, Kept) else None for one in first.states.values()]


def _try_evaluation(
    recipe: ClientRecipe,
    dataset: FederatedDataset,
    start: Broadcast,
    first: ChunkResult[Partial, KeptState],
) -> None:
    """Evaluate a client as a third-party algorithm does, with what it has kept."""
    algorithm = recipe.algorithm
    if type(algorithm).__module__.startswith("simfl."):
        return
    own = (PERSONAL,) if algorithm.personalizes else ()
    if own or algorithm.predicts:
        chunk = EvaluationChunk("clients", (tuple(first.states),), own=own, needs_states=bool(own))
        host = ClientHost(replace(recipe, stack=1), dataset)
        host.evaluate_chunk(chunk, replace(start, round=2), _kept(first))


def _try_server(
    server: ServerRecipe, snapshot: Snapshot, first: ChunkResult[Partial, KeptState]
) -> None:
    """Let the server's half of a third-party algorithm take a step with what one client sends."""
    algorithm, rule = server.algorithm, server.aggregator
    sent = next(iter(first.partial.nodes.values()), None)
    if type(algorithm).__module__.startswith("simfl.") or sent is None:
        return
    if type(rule) is not Mean or sent.weight <= 0:
        return  # other rules may need more than one client
    weights = snapshot.broadcast.weights
    names = server.build_model().trainable
    trained = weights.select(name for name in names if name in weights)
    delta = Vector({}) if sent.total is None else sent.total / sent.weight
    total = Total(
        delta.select(name for name in trained if name in delta), sent.weight, 1, sent.update_sums
    )
    public = None
    if server.public is not None:
        recipe = server.public.recipe
        one = replace(recipe.work, epochs=None, steps=1)
        tried = replace(server.public, recipe=replace(recipe, work=one))
        public = tried.build().local(0, Broadcast(1, weights, {}), None)
    here = ServerSide(trained, server.population, 1, server.seed, public)
    returned.run_server(algorithm, total, snapshot.state.algorithm, here, weights=weights)


def _trains_on_one(work: LocalWork, num_examples: _Column) -> _Column:
    """Return for each client whether one of its batches is a single example."""
    sizes = np.minimum(work.batch_size or num_examples, num_examples)
    left = num_examples % np.maximum(sizes, 1)
    whole = num_examples // np.maximum(sizes, 1)
    # What is drawn may be any number.
    reaches_the_last = work.distribution is not None or whole < work.num_steps(num_examples)
    alone: _Column = (sizes == 1) | ((left == 1) & reaches_the_last & (not work.drop_last))
    return alone


def _check_transforms(scenario: Scenario, client: ClientRecipe, model: TorchModel) -> None:
    """Check that transforms work with updates of the model's size."""
    trained = model.live_weights(n for n in model.trainable if n not in client.personal)
    shapes = shapes_of(trained)
    for index, transform in enumerate(client.work.transforms):
        try:
            transform.check_update(shapes)
        except ConfigError as error:
            raise scenario.fault(f"client.transforms[{index}]", str(error)) from error


def _check_augmentation(scenario: Scenario, dataset: FederatedDataset) -> None:
    """Check that all steps of ``data.augment`` go with the inputs, and with a few of them."""
    rows = np.arange(min(_MOST_ROWS, len(dataset.train)))
    for index, step in enumerate(scenario.data.augment):
        key, inputs = f"data.augment[{index}]", read_batch(dataset.train, rows).inputs
        if not isinstance(inputs, torch.Tensor):
            message = f"is for one input, and there are {len(inputs)}; leave it out"
            raise scenario.fault(key, message)
        if not inputs.is_floating_point():
            message = "is for floats, and inputs are integers; set data.divide_by: 255 for images"
            raise scenario.fault(key, f"{message} of bytes, or leave it out")
        what, otherwise = f"{step.name!r} fails on a few examples", "change its fields"
        with explained(scenario, key, what, otherwise=otherwise):
            check_augmentation(step, inputs)


def _require_unchanged(
    scenario: Scenario, model: TorchModel, batch: Batch, unsent: Mapping[str, str]
) -> None:
    """Check that training leaves fixed weights and buffers as they are."""
    with global_generators(), suppress(Exception):  # a failure shows in the step that follows
        model.compute_loss_and_gradients(batch)
    after = digests_of(model.fixed_weights)
    changed = [name for name, digest in after.items() if digest != unsent[name]]
    if not changed:
        return
    if changed[0] in resolve_names(model.module, scenario.model.fixed):
        raise scenario.fault(
            "model.fixed",
            f"names {changed[0]!r}, but a step of training changes it, although its layer is in "
            "evaluation mode; leave it out",
        )
    raise scenario.fault(
        "model",
        f"{changed[0]!r} is frozen (requires_grad is False), but a step of training changes it; "
        "register it as a buffer",
    )


def _require_reproducible(
    scenario: Scenario, client: ClientRecipe, server: ServerRecipe, model: TorchModel
) -> None:
    """Check that what the server does not send is the same each time the model is built."""
    if client.initial is not None and client.initial.rest is not None:
        return  # all hosts are given its initial values
    with explained(scenario, "model", "it cannot be built"):
        other = server.with_initial(None).build_model()
    differing = model.held.differing(other.held)
    ours, theirs = (one.fixed_weights | one.live_weights(client.personal) for one in (model, other))
    differing += [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if differing:
        hint = ", or register it as a buffer" if differing[0] not in ours else ""
        raise scenario.fault(
            "model",
            f"{differing[0]!r} differs each time the model is built, and the server does not "
            f"send it; draw it from torch's generator, which is seeded{hint}",
        )
