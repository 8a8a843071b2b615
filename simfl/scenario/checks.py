"""Checks across keys: combinations of values that are invalid together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from simfl.errors import InputError, ScenarioError
from simfl.models import is_batch_loss
from simfl.models.metrics import as_metrics
from simfl.optimizer import OptiModule
from simfl.record import require_own_names
from simfl.scenario.algorithm_checks import ALGORITHM_CHECKS, Fault, overrides, receives, sends
from simfl.scenario.document import show
from simfl.scenario.fields import keys_of
from simfl.scenario.plain import to_short
from simfl.scenario.schema import Scenario
from simfl.sections import ActorsSection, OptimizerSection, SelectionSection
from simfl.transforms import Codec, UpdateTransform


def check_combinations(scenario: Scenario) -> None:
    """Check the rules that involve several keys.

    Raises:
        ScenarioError: with a line for each fault.
    """
    faults = [fault for check in _CHECKS for fault in check(scenario)]
    if faults:
        raise ScenarioError([line for fault in faults for line in scenario.fault(*fault).faults])


def _epochs_or_steps(scenario: Scenario) -> Iterator[Fault]:
    client = scenario.client
    if client.epochs is not None and client.steps is not None:
        epochs, steps = (show(to_short(given)) for given in (client.epochs, client.steps))
        yield "client.steps", f"is {steps}, but client.epochs is {epochs}; give one of the two"


def _stack(scenario: Scenario) -> Iterator[Fault]:
    yield from _power_of_two("client.stack", scenario.client.stack)
    for index, group in enumerate(scenario.cluster.groups):
        yield from _power_of_two(f"cluster.groups[{index}].stack", group.stack)
    stack = scenario.client.stack
    if stack not in ("auto", 1) and scenario.cluster.placement == "dedicated":
        yield (
            "client.stack",
            f"is {stack}, but with cluster.placement 'dedicated' each client has its own "
            "actor; remove stack",
        )


def _power_of_two(key: str, stack: int | str | None) -> Iterator[Fault]:
    if isinstance(stack, int) and stack & (stack - 1):
        below = 1 << (stack.bit_length() - 1)
        yield key, f"is {stack}, but must be a power of two; take {below} or {2 * below}"


def _cohort(scenario: Scenario) -> Iterator[Fault]:
    per_round, partition = scenario.client.per_round, scenario.data.partition
    clients = partition.num_clients if partition is not None else None
    if per_round is not None and clients is not None and per_round > clients:
        yield (
            "client.per_round",
            f"is {per_round}, but the partition makes {clients} clients; "
            "lower it or raise data.partition.clients",
        )


def _auxiliary_variables(scenario: Scenario) -> Iterator[Fault]:
    client, server = scenario.client.optimizer, scenario.server.optimizer
    yield from _unheard(client, server, ("client", "server"))
    yield from _unheard(server, client, ("server", "client"))


def _unheard(
    sender: OptimizerSection, receiver: OptimizerSection, sides: tuple[str, str]
) -> Iterator[Fault]:
    here, there = sides
    heard = {_aux_name(module) for module in receiver.modules if receives(module)}
    for index, module in enumerate(sender.modules):
        if sends(module) and _aux_name(module) not in heard:
            yield (
                f"{here}.optimizer.modules[{index}]",
                f"is {module.name!r}, which needs its counterpart on the {there}; "
                f"add {_counterpart(module)} to {there}.optimizer.modules",
            )


def _counterpart(module: OptiModule) -> str:
    aux_name = _aux_name(module)
    names = [
        repr(name)
        for name, cls in OptiModule.registry.items()
        if (cls.aux_name or name) == aux_name and name != module.name
    ]
    return " or ".join(names) or f"a module with aux_name {aux_name!r}"


def _kept_state(scenario: Scenario) -> Iterator[Fault]:
    """Find modules that send the server state kept between rounds, where no state is kept."""
    for index, module in enumerate(scenario.client.optimizer.modules):
        needs_state = sends(module) and overrides(module, "between_rounds")
        if needs_state and not scenario.client.keep_state:
            yield (
                "client.keep_state",
                f"is false, but {module.name!r} in client.optimizer.modules[{index}] needs "
                "each client's state from its last round; remove keep_state",
            )
    if scenario.algorithm.keeps_state and not scenario.client.keep_state:
        yield (
            "client.keep_state",
            f"is false, but algorithm {scenario.algorithm.name!r} needs what each client keeps "
            "from its last round; remove keep_state",
        )


def _personal(scenario: Scenario) -> Iterator[Fault]:
    """Find personal weights that clients cannot keep or train."""
    if not scenario.model.personal:
        return
    if not scenario.client.keep_state:
        yield (
            "client.keep_state",
            "is false, but each client must keep its weights of model.personal; remove keep_state",
        )
    if not scenario.algorithm.uses_optimizer:
        yield (
            "model.personal",
            f"names weights that client.optimizer trains, which algorithm "
            f"{scenario.algorithm.name!r} does not use; remove one of them",
        )


def _transforms(scenario: Scenario) -> Iterator[Fault]:
    """Find codecs that are not the last transform, and states of transforms that are not kept."""
    transforms = scenario.client.transforms
    if transforms and not scenario.algorithm.sends_delta:
        yield (
            "client.transforms",
            f"are given, but algorithm {scenario.algorithm.name!r} sends no deltas, so that they "
            "would have no effect; remove them",
        )
    for index, transform in enumerate(transforms):
        key = f"client.transforms[{index}]"
        if isinstance(transform, Codec) and index < len(transforms) - 1:
            following = transforms[index + 1].name
            yield key, f"is {transform.name!r}, a codec, but {following!r} follows; put it last"
        if transform.keeps_state and not scenario.client.keep_state:
            yield (
                "client.keep_state",
                f"is false, but {transform.name!r} in {key} needs each client's state from its "
                f"last round; remove keep_state{_or_feedback(transform)}",
            )


def _or_feedback(transform: UpdateTransform) -> str:
    return ", or set feedback: false" if isinstance(transform, Codec) else ""


def _optimizers(scenario: Scenario) -> Iterator[Fault]:
    for side in ("client", "server"):
        section: OptimizerSection = getattr(scenario, side).optimizer
        try:
            section.build()
        except InputError as error:
            place, _, message = str(error).partition(": ")
            is_placed = place.partition("[")[0] in keys_of(OptimizerSection)
            yield (
                f"{side}.optimizer.{place}" if is_placed else f"{side}.optimizer",
                message if is_placed else str(error),
            )


def _clipping(scenario: Scenario) -> Iterator[Fault]:
    loss, sclip = scenario.model.loss, scenario.client.sclip
    if sclip and scenario.algorithm.sends_gradients:
        yield (
            "client.sclip",
            f"is {sclip}, which clips the gradients of steps, but algorithm "
            f"{scenario.algorithm.name!r} also sends gradients of all examples; remove it",
        )
    if sclip and is_batch_loss(loss):
        yield (
            "client.sclip",
            f"is {sclip}, which clips the gradient of each example, but model.loss {loss.name!r} "
            "is one number for a whole batch; remove one of them",
        )


def _accumulation(scenario: Scenario) -> Iterator[Fault]:
    """Find batches that cannot be cut into micro-batches."""
    client, loss = scenario.client, scenario.model.loss
    if client.accumulate == 1:
        return
    if client.batch_size is not None and client.accumulate > client.batch_size:
        yield (
            "client.accumulate",
            f"is {client.accumulate}, but a batch has {client.batch_size} examples; lower it",
        )
    if not loss.is_mean:
        yield (
            "client.accumulate",
            f"is {client.accumulate}, but model.loss {loss.name!r} depends on a batch as a whole, "
            "and would have other gradients in micro-batches; remove one of them",
        )


def _evaluation(scenario: Scenario) -> Iterator[Fault]:
    evaluation = scenario.evaluation
    asked = evaluation.metrics
    try:
        metrics = as_metrics(scenario.model.loss.default_metrics if asked is None else asked)
        require_own_names((metric.key for metric in metrics), scenario.evaluations)
    except InputError as error:
        yield "evaluation.metrics", str(error).removeprefix("metrics: ")
    if evaluation.train_loss and not evaluation.every:
        yield (
            "evaluation.train_loss",
            "is true, but evaluation.every is 0, so that it is never measured; set every as well",
        )
    if evaluation.new_clients is not None:
        yield from _selection("evaluation.new_clients", evaluation.new_clients)
    for key in ("personal_steps", "new_clients"):
        if getattr(evaluation, key) and not evaluation.clients_every:
            yield (
                f"evaluation.{key}",
                "is given, but clients are not evaluated; set evaluation.clients_every as well",
            )


def _stop(scenario: Scenario) -> Iterator[Fault]:
    stop = scenario.stop
    if stop is not None and stop.patience is None and stop.target is None:
        yield "stop", "has neither patience nor target, so that no run ends early; give one of them"
    if stop is not None and stop.patience is None and stop.min_delta:
        yield "stop.min_delta", f"is {stop.min_delta:g}, but goes with patience alone; remove it"


def _cluster(scenario: Scenario) -> Iterator[Fault]:
    cluster = scenario.cluster
    for key, actors in _actors(scenario):
        if cluster.placement == "dedicated" and actors.actors != "auto":
            yield (
                f"{key}.actors",
                f"is {actors.actors}, but with placement 'dedicated' there is one actor for each "
                "client; remove actors",
            )
    if cluster.dashboard and cluster.address is not None:
        yield (
            "cluster.dashboard",
            f"is true, but the cluster at {cluster.address!r} has its own dashboard; "
            "remove dashboard",
        )


def _elastic(scenario: Scenario) -> Iterator[Fault]:
    for key, actors in _actors(scenario):
        least, most, number = actors.min_actors, actors.max_actors, actors.actors
        if most is not None and number != "auto":
            yield f"{key}.max_actors", f"is {most}, but actors is {number}; remove one of them"
        if number != "auto" and least is not None and least > number:
            yield f"{key}.min_actors", f"is {least}, more than {key}.actors, {number}; lower it"
        if least is not None and most is not None and least > most:
            yield f"{key}.min_actors", f"is {least}, more than {key}.max_actors, {most}; lower it"
        if actors.num_gpus > 1:
            yield (
                f"{key}.num_gpus",
                f"is {actors.num_gpus:g}, but an actor trains on one GPU; set it to 1, and "
                "use more actors",
            )
        if actors.accelerator_type is not None and actors.num_gpus == 0:
            yield (
                f"{key}.accelerator_type",
                f"is {actors.accelerator_type!r}, but num_gpus is 0; set num_gpus as well",
            )


def _groups(scenario: Scenario) -> Iterator[Fault]:
    cluster = scenario.cluster
    if not cluster.groups:
        return
    for name, (_, default) in keys_of(ActorsSection).items():
        if getattr(cluster, name) != default:
            value = show(getattr(cluster, name))
            yield f"cluster.{name}", f"is {value}, but cluster.groups are given; set it in a group"
    names = [group.name for group in cluster.groups]
    for index, group in enumerate(cluster.groups):
        key = f"cluster.groups[{index}]"
        if group.name in names[:index]:
            yield f"{key}.name", f"is {group.name!r}, like another group's; rename one"
        if group.clients == "rest":
            if any(other.clients == "rest" for other in cluster.groups[:index]):
                yield f"{key}.clients", "is 'rest', like another group's; only one can be"
        else:
            yield from _selection(f"{key}.clients", group.clients)


def _selection(key: str, selection: SelectionSection) -> Iterator[Fault]:
    ways = ("fraction", "range", "ids", "column")
    given = [way for way in ways if getattr(selection, way) is not None]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "is empty"
        yield key, f"{what}; give one of fraction, range, ids and column"
    if (selection.column is None) != (not selection.values):
        yield key, "needs both column and values: the name of a column and the values to select"
    if selection.range is not None and selection.range[0] > selection.range[1]:
        first, last = selection.range
        yield f"{key}.range", f"is [{first}, {last}]; the first id must not be above the last"


def _actors(scenario: Scenario) -> Iterator[tuple[str, ActorsSection]]:
    """Iterate over the key and the section of each group of actors."""
    groups = scenario.cluster.groups
    if not groups:
        yield "cluster", scenario.cluster
    for index, group in enumerate(groups):
        yield f"cluster.groups[{index}]", group


def _aux_name(module: OptiModule) -> str:
    return module.aux_name or module.name


_CHECKS: Final[tuple[Callable[[Scenario], Iterator[Fault]], ...]] = (
    _cohort,
    _stack,
    _epochs_or_steps,
    _optimizers,
    _auxiliary_variables,
    *ALGORITHM_CHECKS,
    _kept_state,
    _personal,
    _clipping,
    _accumulation,
    _transforms,
    _evaluation,
    _stop,
    _cluster,
    _elastic,
    _groups,
)
