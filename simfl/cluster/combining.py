"""Combiners: what a node's clients send is added up on the node, before it goes to the server.

The reduction's fixed tree gives the same bits wherever siblings meet. So a node sends the server's
one the few roots that its chunks come to, and not a partial for each chunk. The word is MapReduce's
(Dean and Ghemawat, 2004, section 4.3).
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from simfl.aggregation import Aggregator, CohortSum, EveryUpdate, merge_contributions
from simfl.cluster.actor_setup import ActorSetup
from simfl.cluster.failures import LostSumError
from simfl.cluster.launch import put_setup
from simfl.cluster.remote_server import Partials, RemoteServer
from simfl.cluster.setup import EngineSetup
from simfl.cluster.wire import Parcel, Ref, open_parcel, pack_partial
from simfl.messages import ChunkReport, ChunkResult, Contribution
from simfl.optimizer import Optimizer

WORTH_BYTES = 64e6
"""What a round's partials from other nodes must come to for combiners to be worth it, or ..."""

WORTH_PARTIALS = 256
"""... how many of them there must be."""

LEAST_PARTIALS = 4
"""Fewer of a node are sent as they are."""

FAN_IN = 4
"""How many combiners send their sums to one place: another one of them, and at last the server."""

CALL_BYTES = 64e6
"""The most that a call carries in several partials, all of which must be in memory at once."""

HELD_BYTES, HELD_PARTIALS = 1 << 20, 16
"""Partials are sent together up to here: for small ones a call costs more than adding them."""

KEPT_BYTES = 1 << 26
"""How many bytes of a round's partials are kept for a server that dies. The others, of a large
model, would fill the object store; without them, the cohort is trained once more."""


@dataclass(frozen=True)
class MergeRecipe:
    """How contributions merge."""

    aggregator: Aggregator
    optimizer: Optimizer
    """The clients'."""
    shares_aux: bool
    """Whether the server may read auxiliary variables in place."""

    def merge(self, left: Contribution, right: Contribution) -> Contribution:
        """Merge two contributions, in the order of the tree."""
        return merge_contributions(
            left, right, aggregator=self.aggregator, optimizer=self.optimizer
        )


class CombinerActor:
    """Adds up partials, in a process of its own. It needs no start: each call brings the recipe.

    Args:
        label: ``combiner-3``.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._recipe: MergeRecipe | None = None
        self._cohort = 0
        self._sum: CohortSum | None = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return self._label

    def process_id(self) -> int:
        """Return the process id, as a sign of life."""
        return os.getpid()

    def node(self) -> str:
        """Return the node on which it runs."""
        return ray.get_runtime_context().get_node_id()

    def receive(self, setup: ActorSetup, cohort: int, *partials: Parcel) -> None:
        """Add partials to a cohort's sum; those of an earlier cohort are discarded."""
        if cohort != self._cohort:
            self._cohort, self._sum, self._error = cohort, None, None
        try:
            self._recipe = self._recipe or setup.open_recipe(self._label)
            self._sum = self._sum or CohortSum(self._recipe.merge)
            for partial in partials:
                self._sum.add(open_parcel(partial))
        except Exception as error:
            self._error = error  # for ``combine``, whose result is read

    def combine(self, cohort: int, starts: Sequence[int]) -> Parcel:
        """Return the sum of a cohort's partials, as one, and forget it.

        Args:
            cohort: which.
            starts: the first positions of all that are to be in it.

        Raises:
            LostSumError: if some are not.
        """
        received, recipe, self._sum = self._sum, self._recipe, None
        if cohort == self._cohort and self._error is not None:
            raise self._error
        if cohort != self._cohort or received is None or not received.starts >= set(starts):
            raise LostSumError(f"{self._label} lacks partials")
        assert recipe is not None
        sums, aux = recipe.aggregator.accepts_read_only, recipe.shares_aux
        return pack_partial(received.partial(), sums=sums, aux=aux)


class Combiners:
    """The combiners of a run, which start once its rounds have shown that they are worth it.

    Args:
        setup: what is run.
        server: receives what they return.
    """

    def __init__(self, setup: EngineSetup, server: RemoteServer) -> None:
        self._setup = setup
        self._server = server
        # Of every update on its own there are no sums.
        self._adds_up = not isinstance(setup.server.aggregator, EveryUpdate)
        self._recipe: Ref | None = None
        self._here = ""
        self._nodes: dict[str, tuple[Any, Ref]] = {}
        """By node, its combiner, and a call that is answered if it runs."""
        self._numbers, self._cohorts = itertools.count(), itertools.count(1)
        self.node_of: dict[str, str] = {}
        """The node of each client actor that has trained a chunk, by its label."""

    def begin(self) -> Sums:
        """Return where the partials of the next cohort are to be sent."""
        running = {node: actor for node, (actor, sign) in self._nodes.items() if _is_on(node, sign)}
        return Sums(self._server, running, self._recipe, next(self._cohorts))

    @property
    def are_launched(self) -> bool:
        """Whether there are any."""
        return bool(self._nodes)

    def doubt(self) -> None:
        """Use them only once they have answered again: something was lost, perhaps with them."""
        for node, (actor, _) in self._nodes.items():
            self._nodes[node] = actor, actor.node.remote()

    def learn(self, trained: Iterable[tuple[str, ChunkReport]]) -> None:
        """Learn from a cohort where actors are, and whether combiners would have helped.

        Args:
            trained: of each chunk, the label of its actor and its report.
        """
        by_node: defaultdict[str, list[int]] = defaultdict(list)
        for label, report in trained:
            self.node_of[label] = report.node
            by_node[report.node].append(report.partial_bytes)
        if not self._adds_up or not any(by_node):
            return
        self._here = self._here or ray.get_runtime_context().get_node_id()
        by_node.pop(self._here, None)
        sizes = list(itertools.chain.from_iterable(by_node.values()))
        if sum(sizes) >= WORTH_BYTES or len(sizes) >= WORTH_PARTIALS:
            for node, own in by_node.items():
                if len(own) >= LEAST_PARTIALS and node not in self._nodes:
                    self._launch(node)
        for node in self._nodes.keys() - self.node_of.values():
            ray.kill(self._nodes.pop(node)[0])

    def close(self) -> None:
        """End them."""
        for actor, _ in self._nodes.values():
            ray.kill(actor)

    def _launch(self, node: str) -> None:
        setup = self._setup
        if self._recipe is None:
            merging = MergeRecipe(
                setup.server.aggregator, setup.client.optimizer, setup.client.accepts_read_only
            )
            self._recipe = put_setup(setup, merging)
        label = f"combiner-{next(self._numbers)}"
        remote = ray.remote(CombinerActor).options(
            num_cpus=0,
            # Soft affinity would often place it on another node, although there is room.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            max_restarts=-1,
            max_task_retries=0,
        )
        actor: Any = remote.remote(label)
        self._nodes[node] = actor, actor.node.remote()
        self._server.watch(label, actor)


def _is_on(node: str, sign: Ref) -> bool:
    """Return whether an actor has answered, and from this node."""
    if not ray.wait([sign], timeout=0)[0]:
        return False
    try:
        answer: Any = ray.get(sign)
    except RayError:
        return False
    return bool(answer == node)


class Sums:
    """Sends a cohort's partials to the combiners of their nodes, or else to the server.

    Args:
        server: the server.
        combiners: by node.
        recipe: of how they merge.
        cohort: a number that no other cohort has.
    """

    def __init__(
        self, server: RemoteServer, combiners: Mapping[str, Any], recipe: Ref | None, cohort: int
    ) -> None:
        self._server = server
        self._combiners = combiners
        self._recipe = recipe
        self._cohort = cohort
        self._starts: defaultdict[str, list[int]] = defaultdict(list)
        """By node, the first positions of what its combiner is to add up."""
        self._partials, self._room = Partials([], [], []), KEPT_BYTES
        self._held: defaultdict[str, list[ChunkResult[Ref, Any]]] = defaultdict(list)
        """By node, small partials that are not sent yet."""

    def send(self, results: Sequence[ChunkResult[Ref, Any]], *, is_last: bool) -> None:
        """Send the partials of chunks that have ended, small ones several at a time.

        The last of all go with the next call.
        """
        for result in results:
            node = result.report.node
            self._held[node if node in self._combiners else ""].append(result)
        due = [node for node, own in self._held.items() if is_last or _are_worth_a_call(own)]
        for node in due:
            own = self._held.pop(node)
            for batch in _in_batches(own):
                partials = [result.partial for result in batch]
                self._room -= sum(result.report.partial_bytes for result in batch)
                if node:
                    self._to_combiner(node, [result.report.start for result in batch], partials)
                elif is_last and batch[-1] is own[-1]:
                    self._partials.last.extend(partials)
                else:
                    self._to_server(partials)

    def finish(self) -> Partials:
        """Have each combiner return its sum, and return what the server is to add up."""
        nodes = sorted(self._starts)
        while len(nodes) > FAN_IN:
            for first in range(0, len(nodes), FAN_IN):
                head, *others = nodes[first : first + FAN_IN]
                for other in others:
                    self._to_combiner(head, [min(self._starts[other])], [self._combine(other)])
            nodes = nodes[::FAN_IN]
        combined = [self._combine(node) for node in nodes]
        # Calls of the server that wait for arguments would keep it from answering others.
        self._server.wait(combined)
        for one in combined:
            self._to_server([one])
        return self._partials

    def _to_server(self, partials: Sequence[Ref]) -> None:
        self._partials.received.append(self._server.receive(partials))
        self._partials.sent.extend(partials if self._room >= 0 else [None] * len(partials))

    def _to_combiner(self, node: str, starts: Sequence[int], partials: Sequence[Ref]) -> None:
        self._starts[node] += starts
        self._combiners[node].receive.remote(self._recipe, self._cohort, *partials)

    def _combine(self, node: str) -> Ref:
        return self._combiners[node].combine.remote(self._cohort, self._starts[node])


def _are_worth_a_call(results: Sequence[ChunkResult[Ref, Any]]) -> bool:
    num_bytes = sum(result.report.partial_bytes for result in results)
    return num_bytes >= HELD_BYTES or len(results) >= HELD_PARTIALS


def _in_batches(
    results: Sequence[ChunkResult[Ref, Any]],
) -> Iterator[list[ChunkResult[Ref, Any]]]:
    """Iterate over results that are sent together."""
    batch: list[ChunkResult[Ref, Any]] = []
    size = 0
    for result in results:
        if batch and size + result.report.partial_bytes > CALL_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(result)
        size += result.report.partial_bytes
    if batch:
        yield batch
