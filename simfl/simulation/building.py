"""build(scenario): resolve a scenario into a Simulation. The pre-flight check; starts no actors."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from simfl.aggregation import mix_before
from simfl.algorithms import FedAvg
from simfl.client import (
    ClientRecipe,
    StackChoice,
    can_evaluate_together,
    choose_stack,
)
from simfl.client.updates import ClientRow, to_columns
from simfl.cluster.pool import ActorGroup, actor_groups
from simfl.data import FederatedDataset
from simfl.errors import ConfigError
from simfl.messages import FloatColumn, IntColumn, RoundPlan
from simfl.observers import ClientTable
from simfl.sampling import (
    Past,
    Sampler,
    Stragglers,
    begin_past,
    learn_from,
    looks_back,
    plan_round,
)
from simfl.scenario import Scenario
from simfl.sections import GroupSection
from simfl.server import PublicData, ServerRecipe
from simfl.simulation.fitting import loss_for, metrics_for, shape_for
from simfl.simulation.grouping import assign_groups, order_by_group
from simfl.simulation.judging import better_keys, rules_of
from simfl.simulation.naming import with_names
from simfl.simulation.notes import notes_of
from simfl.simulation.selection import cohort_size_of, participants
from simfl.simulation.trial import try_step
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class Simulation:
    """A scenario with everything in it resolved and checked."""

    scenario: Scenario
    dataset: FederatedDataset
    client: ClientRecipe
    server: ServerRecipe
    sampler: Sampler
    cohort_size: int
    num_examples: np.ndarray[Any, Any]
    """[population] the number of examples each client trains on."""
    num_steps: np.ndarray[Any, Any]
    """[population] the number of steps each client takes per round; where it is drawn, one draw for
    the whole population."""
    num_test_examples: int
    """The size of the central test split; 0 if there is none."""
    group_of: np.ndarray[Any, Any]
    """[population] the group of client actors that trains each client; 0 without groups."""
    participants: np.ndarray[Any, Any]
    """The ids of the clients that may train: all but ``evaluation.new_clients``, ascending."""
    stacks: tuple[int, ...]
    """By group, the number of clients trained in one computation."""
    notes: tuple[str, ...] = ()
    """Notes for the user before the run, one line each."""

    @property
    def population(self) -> int:
        """The number of clients."""
        return self.dataset.num_clients

    @property
    def groups(self) -> tuple[ActorGroup, ...]:
        """The groups of client actors; one if the scenario names none."""
        return actor_groups(self.scenario.cluster, self.stacks)

    def without_examples(self) -> Simulation:
        """Return a copy for the round loop, without examples and base, which the engine holds."""
        return dataclasses.replace(
            self,
            dataset=self.dataset.without_examples(),
            client=self.client.with_initial(None),
            server=self.server.with_initial(None),
        )

    def complete(self, shared: Vector) -> Vector:
        """Return the server's weights with the initial values of personal ones, in order."""
        if not self.client.personal:
            return shared
        return self.server.build_model().get_weights() | shared

    def files(self, weights: Vector) -> dict[str, bytes]:
        """Return the files for other libraries that the model has, by name, with final weights."""
        client = self.client
        fixed = {name: client.unsent[name] for name in client.fixed}
        return client.spec.files(weights, client.shape, seed=client.seed, fixed=fixed)

    def plan_round(
        self,
        round: int,
        past: Past | None = None,
        ask: Callable[[IntColumn], FloatColumn] | None = None,
    ) -> RoundPlan:
        """Draw a round's cohort.

        Args:
            round: which round.
            past: what the rounds before have left, for samplers that look back; None: nothing.
            ask: returns clients' losses, for samplers that ask them.
        """
        plan = plan_round(
            self.sampler,
            num_examples=self.num_examples,
            num_steps=self.num_steps,
            size=self.cohort_size,
            seed=self.scenario.seed,
            round=round,
            work=self.client.work,
            participants=self.participants,
            past=past,
            ask=ask,
        )
        return order_by_group(plan, self.group_of, self.stacks)

    def read_past(self, saved: State | None) -> Past | None:
        """Return what samplers that look back know, at the start or from a checkpoint."""
        if not looks_back(self.sampler):
            return None
        return Past.from_state(saved) if saved else begin_past(self.sampler, len(self.participants))

    def learn(self, past: Past | None, clients: ClientTable) -> Past | None:
        """Return what they know after a round; None for samplers that do not look back."""
        if past is None:
            return None
        return learn_from(
            self.sampler, past, clients.round, clients, participants=self.participants
        )


@contextmanager
def _without_warnings_of_broadcasting() -> Iterator[None]:
    """Suppress torch's warning about broadcasting, which ``build`` reports itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using a target size")
        yield


@_without_warnings_of_broadcasting()
def build(scenario: Scenario, dataset: FederatedDataset | None = None) -> Simulation:
    """Resolve a scenario: load and split the data, size the model for it, check the counts.

    Args:
        scenario: the scenario to resolve.
        dataset: its data, if already loaded; None loads it.

    Raises:
        ScenarioError: with the file, line and key of each conflict.
        InputError: if the user's data or code cannot be loaded.
    """
    if dataset is None:
        dataset = scenario.build_dataset()
    training = participants(scenario, dataset)
    cohort_size = cohort_size_of(scenario, len(training), dataset.num_clients)
    _check_aggregator(scenario, cohort_size)
    _check_population(scenario, dataset.num_clients)
    client = with_names(scenario, _client_recipe(scenario, dataset, training))
    server = _server_recipe(scenario, client, dataset, training)
    try_step(scenario, client, server, dataset)
    if scenario.evaluation.clients_every and not can_evaluate_together(client, dataset):
        client = dataclasses.replace(client, evaluates_together=False)
    group_of = assign_groups(scenario, dataset)
    choices = _choose_stacks(scenario, client, dataset, cohort_size, group_of[training])
    stacks = tuple(choice.size for choice in choices)
    num_examples = dataset.num_train_examples()
    num_steps = _num_steps(scenario, client, num_examples)
    simulation = Simulation(
        scenario=scenario.with_stacks(stacks),
        dataset=dataclasses.replace(dataset, encode=None),  # actors do not tokenize
        client=client,
        server=server,
        sampler=scenario.client.sampler,
        cohort_size=cohort_size,
        num_examples=num_examples,
        num_steps=num_steps,
        num_test_examples=0 if dataset.test is None else len(dataset.test),
        group_of=group_of,
        participants=training,
        stacks=stacks,
        notes=notes_of(
            scenario, choices, client, server, dataset, training=training, num_steps=num_steps
        ),
    )
    _try_sampler(simulation)
    has_test = simulation.num_test_examples > 0
    rules_of(scenario, better_keys(scenario, client.build_metrics(), has_test=has_test))
    return simulation


def _num_steps(
    scenario: Scenario, client: ClientRecipe, num_examples: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return each client's steps, or one draw of them."""
    everyone = np.arange(len(num_examples))
    try:
        drawn = client.work.draw_steps(num_examples, seed=scenario.seed, round=1, clients=everyone)
    except ConfigError as error:
        raise scenario.fault(_work_key(scenario), str(error)) from error
    return client.work.num_steps(num_examples) if drawn is None else drawn


def _work_key(scenario: Scenario) -> str:
    return "client.epochs" if scenario.client.steps is None else "client.steps"


def _try_sampler(simulation: Simulation) -> None:
    """Draw two cohorts, with what a sampler that looks back makes of the first."""
    scenario = simulation.scenario
    try:
        past = simulation.read_past(None)
        plan = simulation.plan_round(1, past, _made_up)
        if past is not None:
            rows = [ClientRow(client, num_examples=1) for client in plan.clients]
            past = learn_from(
                simulation.sampler,
                past,
                1,
                to_columns(rows),
                participants=simulation.participants,
            )
            simulation.plan_round(2, past, _made_up)
    except ConfigError as error:
        raise scenario.fault("client.sampler", str(error)) from error
    work = simulation.client.work.distribution
    is_idle = plan.is_idle and not looks_back(simulation.sampler)
    if isinstance(work, Stragglers) and work.drop and is_idle:
        raise scenario.fault(
            _work_key(scenario),
            f"drops each of the {len(plan.clients)} clients of a round; lower share, {work.share}, "
            "or raise client.per_round",
        )


def _made_up(clients: IntColumn) -> FloatColumn:
    """Return losses of clients that cannot be asked yet."""
    return np.ones(len(clients))


def _check_aggregator(scenario: Scenario, cohort_size: int) -> None:
    server = scenario.server
    key = "server.pre_aggregators" if server.pre_aggregators else "server.aggregator"
    try:
        mix_before(server.aggregator, server.pre_aggregators).check_cohort(cohort_size)
    except ConfigError as error:
        raise scenario.fault(key, str(error)) from error


def _check_population(scenario: Scenario, size: int) -> None:
    try:
        scenario.algorithm.check_population(size)
    except ConfigError as error:
        raise scenario.fault("algorithm", str(error)) from error


def _client_recipe(
    scenario: Scenario, dataset: FederatedDataset, training: np.ndarray[Any, Any]
) -> ClientRecipe:
    client, model = scenario.client, scenario.model
    return ClientRecipe(
        spec=model.spec,
        shape=shape_for(scenario, dataset, model.loss),
        loss=loss_for(scenario, dataset, training),
        # As objects: an actor cannot look up a notebook's classes by name.
        metrics=metrics_for(scenario, dataset),
        optimizer=client.optimizer.build().for_population(len(training)),
        aggregator=mix_before(scenario.server.aggregator, scenario.server.pre_aggregators),
        algorithm=scenario.algorithm,
        work=client,
        seed=scenario.seed,
        weighting=scenario.server.weighting,
        augment=scenario.data.augment,
        evaluation_batch_size=scenario.evaluation.batch_size,
        personal_steps=scenario.evaluation.personal_steps,
    )


def _choose_stacks(
    scenario: Scenario,
    client: ClientRecipe,
    dataset: FederatedDataset,
    cohort_size: int,
    group_of: np.ndarray[Any, Any],
) -> list[StackChoice]:
    """Return each group's choice; its cohort is the round's, times its fraction of all clients."""
    cluster = scenario.cluster
    choices = []
    for index, group in enumerate(cluster.groups or (cluster,)):
        asked = isinstance(group, GroupSection) and group.stack
        fraction = np.mean(group_of == index)
        choice = choose_stack(
            1 if cluster.placement == "dedicated" else asked or scenario.client.stack,
            client,
            dataset,
            cohort_size=round(fraction * cohort_size),
            uses_gpu=group.num_gpus > 0,
        )
        choices.append(choice)
    return choices


def _server_recipe(
    scenario: Scenario,
    client: ClientRecipe,
    dataset: FederatedDataset,
    training: np.ndarray[Any, Any],
) -> ServerRecipe:
    return ServerRecipe(
        spec=client.spec,
        shape=client.shape,
        loss=client.loss,
        optimizer=scenario.server.optimizer.build().for_population(len(training)),
        client_optimizer=client.optimizer,
        aggregator=client.aggregator,
        seed=scenario.seed,
        algorithm=client.algorithm,
        population=len(training),
        personal=client.personal,
        fixed=client.fixed,
        initial=client.initial,
        public=_public_data(scenario, client, dataset, training),
    )


def _public_data(
    scenario: Scenario,
    client: ClientRecipe,
    dataset: FederatedDataset,
    training: np.ndarray[Any, Any],
) -> PublicData | None:
    pools = scenario.algorithm.pools_clients
    examples = dataset.pool(training.tolist()) if pools else dataset.public
    if examples is None:
        if scenario.algorithm.needs_public:
            what = f"{scenario.algorithm.name!r} needs examples that the server has"
            raise scenario.fault("algorithm", f"{what}; set data.public, to 0.1 for example")
        return None
    recipe = dataclasses.replace(
        client,
        algorithm=FedAvg(),
        optimizer=client.optimizer.without_exchange(seed=scenario.seed),
        stack=1,
    )
    return PublicData(recipe, examples)
