"""When a run is saved, and from which checkpoint it continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from simfl.checkpoint import OWNER_FOLDER, Found, Lease, latest_checkpoint
from simfl.checkpoint.manifest import find_manifests
from simfl.cluster.code import read_sources
from simfl.engine import Engine, Handle
from simfl.errors import CheckpointError, InputError, RunError, StatesLostError
from simfl.messages import SaveOrder
from simfl.models.names import digests_of
from simfl.record import METRICS_FILE, RoundRecord
from simfl.sampling import Past
from simfl.scenario import Scenario
from simfl.scenario.plain import describe_changes
from simfl.simulation.building import Simulation
from simfl.simulation.evaluation import without_last_evaluation
from simfl.states import State, Storage, open_storage
from simfl.vector import Vector
from simfl.version import __version__

NOTHING = Found(None, (), (), {})
"""The result of a search before there are checkpoints."""


def hold(
    scenario: Scenario, folder: Path, held: ExitStack, *, notify: Callable[[str], None]
) -> list[Lease]:
    """Keep other processes from a run's folder and its checkpoint location.

    Args:
        scenario: defines where checkpoints are.
        folder: the run's.
        held: releases both at its end.
        notify: called with a message if it takes time to determine whether another process writes.

    Raises:
        InputError: if another process writes there; nothing has been written then.
    """
    places = [open_storage(folder), _place(scenario, folder)]
    if Path(places[1].location).is_relative_to(places[0].location):
        places.pop()
    return [held.enter_context(Lease(place, notify=notify)) for place in places]


def _place(scenario: Scenario, folder: Path) -> Storage:
    """Return the storage of checkpoints; its path is absolute, for actors in other folders."""
    return open_storage(scenario.checkpoint.location or folder / "checkpoints")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        scenario: defines how often the run is saved, and how many checkpoints are kept.
        folder: the run's.
        notify: called with a message for each checkpoint that cannot be used.
        leases: the result of ``hold``, if other processes could write there, too.
        is_loop: whether the rounds are those of a loop of one's own, which evaluates when it likes.
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        *,
        notify: Callable[[str], None],
        leases: Sequence[Lease] = (),
        is_loop: bool = False,
    ) -> None:
        section = scenario.checkpoint
        self.location = _place(scenario, folder).location
        self._every = section.every
        self._keep = section.keep
        self.is_loop = is_loop
        self._evaluation = scenario.evaluation
        self._fingerprint = scenario.fingerprint()
        self._notify = notify
        self._digest = _Digest()
        self._positions: dict[str, Any] = {}
        self._facts: dict[str, Any] = {"scenario": scenario.numbers()}
        self._leases = leases
        self._unsent: frozenset[str] = frozenset()

    def require_held(self) -> None:
        """Check that no other process has taken over the run's folder or checkpoint location.

        Raises:
            LeaseLostError: if one has.
        """
        for lease in self._leases:
            lease.require_held()

    @property
    def are_lost(self) -> bool:
        """Whether another process has taken over."""
        return any(lease.is_lost for lease in self._leases)

    def find(self) -> Found:
        """Find the last complete checkpoint.

        Raises:
            CheckpointError: if it is of another scenario, or cannot be read.
        """
        storage = open_storage(self.location)
        storage.delete_leftovers()
        found = self._latest(storage)
        for refusal in found.refusals:
            self._notify(str(refusal))
        if found.refusals and found.checkpoint is None:
            self._notify(f"no checkpoint in {self.location} can be used; the run starts over")
        return found

    def read(self, round: int | None) -> Found:
        """Read the checkpoint of a round, or the last complete one, and leave the storage alone.

        Raises:
            CheckpointError: if there is none, it is of another scenario, or it cannot be read.
        """
        storage = open_storage(self.location)
        found = latest_checkpoint(storage, scenario_hash=self._fingerprint, round=round)
        if found.checkpoint is not None:
            return found
        if found.refusals:
            raise CheckpointError(str(found.refusals[0]))
        known = ", ".join(map(str, reversed(find_manifests(storage.list_files()))))
        which = "no checkpoint" if round is None else f"no checkpoint of round {round}"
        hint = f"it has those of rounds {known}" if known else "set checkpoint.every"
        raise CheckpointError(
            f"{self.location} holds {which}; {hint}, and checkpoint.keep says how many are kept"
        )

    def checked(self, found: Found, simulation: Simulation) -> Found:
        """Check that a checkpoint fits the run; return it without weights that are not sent.

        Raises:
            CheckpointError: if the model, the data or the base differs.
        """
        found = self.without_unsent(found, simulation.client.fixed)
        if found.checkpoint is not None:
            self.require_fit(found, simulation.server.build().get_weights())
        self.note_run(found, simulation)
        return found

    def _latest(self, storage: Storage) -> Found:
        """Find the last complete checkpoint; if it is another scenario's, report the difference."""
        try:
            return latest_checkpoint(storage, scenario_hash=self._fingerprint)
        except CheckpointError:
            other = latest_checkpoint(storage).checkpoint
            previous = other.positions.get("scenario") if other else None
            changes = describe_changes(previous, self._facts["scenario"]) if previous else ""
            if not changes:
                raise
            raise CheckpointError(
                f"{self.location} was written by a run of another scenario: {changes}; "
                "use the previous values, or another folder"
            ) from None

    def note_run(self, found: Found, simulation: Simulation) -> None:
        """Check that data and code are those of the checkpoint; have the next one record them.

        Changed data is refused. Changed code and another version of torch only draw a warning: they
        need not change the results, and the user may have fixed a bug.

        Args:
            found: the checkpoint from which the run continues.
            simulation: the run, with its data.

        Raises:
            CheckpointError: if the data has changed, or a weight that is not sent.
        """
        if not self._every and found.checkpoint is None:
            return
        code = {
            name: hashlib.sha256(source.text.encode()).hexdigest()
            for name, source in sorted(read_sources(simulation.scenario.search).items())
        }
        self._facts |= {"data": simulation.dataset.digest(), "code": code}
        if simulation.client.unsent:
            self._facts["unsent"] = dict(simulation.client.unsent)
        if found.checkpoint is None:
            return
        saved = found.checkpoint.positions
        if saved.get("data", self._facts["data"]) != self._facts["data"]:
            raise CheckpointError(
                f"{self.location} was written with different data of the same shapes; "
                "restore the data, or start a new run in another folder"
            )
        self._require_unsent(saved.get("unsent"))
        previous = saved.get("code")
        previous = previous if isinstance(previous, dict) else {}
        changed = [name for name in code if previous.get(name, code[name]) != code[name]]
        changed += [
            f"{package} ({then} then, {now} now)"
            for package, now in (("simfl", __version__), ("torch", str(torch.__version__)))
            if (then := found.versions.get(package, now)) != now
        ]
        if changed:
            self._notify(
                f"changed since the checkpoint of round {found.checkpoint.round}: "
                f"{', '.join(changed)}; results may differ from here on"
            )

    def _require_unsent(self, saved: Any) -> None:
        """Check that the initial values of weights that are not sent are the checkpoint's.

        Raises:
            CheckpointError: naming one that differs.
        """
        digests = saved if isinstance(saved, dict) else {}
        for name, digest in self._facts.get("unsent", {}).items():
            if digests.get(name) != digest:
                raise CheckpointError(
                    f"{self.location} was written with other initial values of {name!r}, which is "
                    "personal or fixed and in no checkpoint; restore what the model is built from, "
                    "or start a new run in another folder"
                )

    def without_unsent(self, found: Found, unsent: Collection[str] = ()) -> Found:
        """Return what was found, without weights that are not in checkpoints any more.

        Previous versions saved weights that the module itself freezes. In place of such weights,
        their digests are kept, which ``note_run`` compares.

        Args:
            found: the checkpoint from which the run continues.
            unsent: the weights that the server does not send, from now on.
        """
        self._unsent = frozenset(unsent) or self._unsent
        checkpoint = found.checkpoint
        if checkpoint is None or not (held := self._unsent.intersection(checkpoint.weights)):
            return found
        weights = checkpoint.weights
        known = checkpoint.positions.get("unsent")
        digests = {**digests_of(weights.select(held)), **(known if isinstance(known, dict) else {})}
        checkpoint = replace(
            checkpoint,
            weights=weights.select(name for name in weights if name not in held),
            positions={**checkpoint.positions, "unsent": digests},
        )
        return replace(found, checkpoint=checkpoint)

    def require_fit(self, found: Found, model: Vector) -> None:
        """Check that the saved weights fit the model, whose sizes come from the data.

        Args:
            found: the checkpoint from which the run continues.
            model: weights of the model as it is now.

        Raises:
            CheckpointError: if names or shapes differ.
        """
        if found.checkpoint is None:
            return
        saved = found.checkpoint.weights
        differing = sorted(_layout(saved).items() ^ _layout(model).items())
        if differing:
            name = differing[0][0]
            raise CheckpointError(
                f"{self.location} was written with other data: its weights {name!r} are "
                f"{_described(saved, name)}, and the model's {_described(model, name)}; restore "
                "the data, or run the scenario in another folder"
            )

    def require_none(self) -> None:
        """Check that a new run does not write to the checkpoints of another run.

        Raises:
            InputError: if there are checkpoints already.
        """
        files = open_storage(self.location).list_files()
        if any(not name.startswith(f"{OWNER_FOLDER}/") for name in files):
            raise InputError(
                f"{self.location} holds checkpoints already; choose another checkpoint.location, "
                "or continue from them with --resume auto"
            )

    def require_history(self, found: Found, history: Sequence[RoundRecord]) -> None:
        """Check that the rounds' records are those that the checkpoint was written after.

        Raises:
            CheckpointError: if a number differs.
        """
        saved = found.checkpoint.positions.get(METRICS_FILE) if found.checkpoint else None
        known = self._comparable(history)
        if saved is not None and saved != self._digest.of(known):
            raise CheckpointError(
                f"the numbers of {METRICS_FILE} are not those that {self.location} was written "
                "after; restore the file, or run the scenario in another folder"
            )

    def _comparable(self, history: Sequence[RoundRecord]) -> Sequence[RoundRecord]:
        """Return the records that a longer run would have, too."""
        return history if self.is_loop else without_last_evaluation(history, self._evaluation)

    def note_history(self, history: Sequence[RoundRecord]) -> None:
        """Have the next checkpoint identify the records of its rounds."""
        known = self._comparable(history)
        self._positions = {METRICS_FILE: self._digest.of(known)}

    @property
    def every(self) -> int:
        """The rounds between checkpoints; 0: there are none."""
        return self._every

    def is_due(self, round: int) -> bool:
        """Return whether the run is saved after this round."""
        return self._every > 0 and round % self._every == 0

    def save_if_due(
        self, engine: Engine, handle: Handle, *, round: int, past: Past | None = None
    ) -> None:
        """Have the engine save, if it is due after this round.

        Args:
            engine: writes the checkpoint.
            handle: what the next round starts from.
            round: the last one.
            past: what the sampler knows of the rounds so far, if it looks back.
        """
        if self.is_due(round):
            self.save(engine, handle, round=round, past=past)

    def save(self, engine: Engine, handle: Handle, *, round: int, past: Past | None = None) -> None:
        """Have the engine save; the arguments are those of ``save_if_due``."""
        self.require_held()
        order = SaveOrder(
            round,
            self._fingerprint,
            positions=self._facts | self._positions,
            keep=self._keep,
            sampler=past.to_state() if past else {},
        )
        with _failing_the_run():
            engine.save(order, handle)

    def finish(self, engine: Engine) -> None:
        """Wait until the last checkpoint is on disk."""
        with _failing_the_run():
            engine.flush()

    def go_back(self, engine: Engine) -> tuple[int, Handle, State]:
        """Return the last saved round, 0 for the start, and what the next one starts from.

        That is the engine's handle, and what the sampler knew then, as in a checkpoint.
        """
        with suppress(StatesLostError):  # rounds that were not saved are trained again
            self.finish(engine)
        found = self.without_unsent(self.find()) if self._every else NOTHING
        checkpoint = found.checkpoint
        round, sampled = (checkpoint.round, checkpoint.sampler) if checkpoint else (0, {})
        return round, engine.restore(found), sampled


class _Digest:
    """The sha256 of a run's records, which hashes only the new ones."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._num_records = 0

    def of(self, history: Sequence[RoundRecord]) -> str:
        """Return the digest of the first records of a history that only grows."""
        if len(history) < self._num_records:  # the run has gone back
            self._hash, self._num_records = hashlib.sha256(), 0
        for record in history[self._num_records :]:
            self._hash.update(json.dumps(record.line).encode() + b"\n")
        self._num_records = len(history)
        return self._hash.hexdigest()


def _layout(weights: Vector) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in weights.items()}


def _described(weights: Vector, name: str) -> str:
    shape = _layout(weights).get(name)
    return "missing" if shape is None else f"of shape {list(shape[0])}"


@contextmanager
def _failing_the_run() -> Iterator[None]:
    """Turn the error of a checkpoint that cannot be written into a failure of the run."""
    try:
        yield
    except CheckpointError as error:
        raise RunError(f"the run ends, since a checkpoint cannot be written: {error}") from error
