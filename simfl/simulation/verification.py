"""verify: run a run again, and compare the bits of its records, checkpoints and weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from simfl.checkpoint import read_checkpoint, saved_rounds
from simfl.errors import CheckpointError, InputError
from simfl.record import (
    BEST_FILE,
    METRICS_FILE,
    PROVENANCE_FILE,
    SCENARIO_FILE,
    SUMMARY_FILE,
    WEIGHTS_FILE,
    RoundRecord,
)
from simfl.regular_files import read_regular
from simfl.scenario import Objects, Scenario, Trust, load_scenario, own_address
from simfl.sections import OutputSection
from simfl.simulation.api import open_run
from simfl.simulation.backends import Backend
from simfl.simulation.folder import checked_folder, holds_loop, holds_run, require_own
from simfl.simulation.provenance import environment
from simfl.simulation.runner import Run, RunOptions, notify
from simfl.states import Storage, encode_tree, open_storage, read_state_digests, view_bytes

_MAX_METRICS = 1 << 29


@dataclass(frozen=True)
class Mismatch:
    """The first difference between a run and its repetition."""

    round: int
    what: str
    """``train_loss``, ``weights/layers.0.weight``, ``the state of client 3``, ..."""
    then: str
    """What the run has, or how much of it differs."""
    now: str = ""

    def __str__(self) -> str:
        values = f"was {self.then}, and is {self.now}" if self.now else self.then
        return f"differs first in round {self.round}: {self.what} {values}"


@dataclass(frozen=True)
class Verdict:
    """What the repetition of a run has shown."""

    rounds: int
    """How many rounds were run again, and compared."""
    checkpoints: tuple[int, ...]
    """The rounds whose checkpoints were compared."""
    has_weights: bool
    """Whether the final weights were compared."""
    mismatch: Mismatch | None

    @property
    def is_same(self) -> bool:
        """Whether all that was compared has the same bits."""
        return self.mismatch is None

    def __str__(self) -> str:
        if self.mismatch is not None:
            return str(self.mismatch)
        parts = ["1 round" if self.rounds == 1 else f"{self.rounds} rounds"]
        if self.checkpoints:
            those, s = ", ".join(map(str, self.checkpoints)), "s" * (len(self.checkpoints) > 1)
            parts.append(f"the checkpoint{s} of round{s} {those}")
        parts += ["the final weights"] if self.has_weights else []
        last = f" and {parts[-1]}" if len(parts) > 1 else ""
        return f"the same bits in {', '.join(parts[:-1] if last else parts)}{last}"


def verify(
    folder: str | Path,
    rounds: int | None = None,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
    **objects: Unpack[Objects],
) -> Verdict:
    """Run the first rounds of a run again in a temporary folder, and compare all bits.

    Reasons why the bits may differ on this machine are printed to standard error.

    Args:
        folder: the run's, which is only read. The run may have ended in any way.
        rounds: how many; None: all that it has.
        backend: as for ``run``; it may differ from the run's.
        address: as for ``run``.
        progress: as for ``run``.
        trust: as for ``run``; it concerns the scenario in the folder.
        **objects: those that the run was given, again.

    Returns:
        The first difference, or what was compared.

    Raises:
        InputError: if the run cannot be repeated: it has no rounds, its data has changed, or it
            draws numbers that no seed repeats.
        RunError: if the repetition fails.
    """
    folder = checked_folder(folder)
    if not holds_run(folder):
        raise InputError(f"{folder} holds no run: there is no {SCENARIO_FILE} in it")
    if holds_loop(folder):
        raise InputError(
            f"{folder} holds a loop of its author's, which only its program can repeat; run that "
            "again, and use simfl compare"
        )
    require_own(folder, objects, do="verify")
    own = own_address(address, trust)
    path = folder / SCENARIO_FILE
    scenario = load_scenario(path, overrides=own, trust=trust, objects=objects)
    _require_repeatable(scenario, folder)
    past = _Past(folder, scenario)
    count = min(rounds or len(past.records), len(past.records))
    if count == 0:
        raise InputError(f"{folder / METRICS_FILE} has no rounds; there is nothing to compare")
    for warning in past.warnings():
        notify(warning)
    with tempfile.TemporaryDirectory(prefix="simfl-verify-") as scratch:
        out = Path(scratch, "run")
        repeated = _repeated(scenario, past.saved, count)
        options = RunOptions(backend, address, progress, is_kept=False)
        with open_run(repeated, out, options) as run:
            past.require_same_data(out)
            mismatch = _compare_records(run, past.records[:count], until=past.last_save(count))
        if mismatch is not None:
            return Verdict(count, (), False, mismatch)
        is_whole = count == len(past.records) and run.result.summary["status"] == "done"
        return _compare_files(past, out, count, is_whole=is_whole and past.is_done)


class _Past:
    """What a run's folder has of it."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.folder = folder
        self.records = _records(folder / METRICS_FILE)
        self.provenance = _json(folder / PROVENANCE_FILE)
        self.is_done = _json(folder / SUMMARY_FILE).get("status") == "done"
        self.storage = open_storage(scenario.checkpoint.location or folder / "checkpoints")
        self.saved = saved_rounds(self.storage)
        self._rounds = scenario.rounds

    def last_save(self, count: int) -> int:
        """Return the round to run up to, so that the checkpoint after round ``count`` is there.

        A checkpoint is written while the next round is trained.
        """
        return min(count + 1, self._rounds) if count in self.saved else count

    def warnings(self) -> Iterator[str]:
        """Yield why the bits may differ here, if there is a reason."""
        if not self.provenance:
            yield (
                f"{self.folder} does not record its processor and packages ({PROVENANCE_FILE}); "
                "if they are others than here, the bits may differ"
            )
            return
        then, now = _flat(self.provenance), _flat(environment())
        changed = [
            f"{name} {then[name]} then, {now[name]} now"
            for name in now
            if name in then and then[name] != now[name]
        ]
        if changed:
            yield f"the bits may differ, since not all is as it was: {'; '.join(changed)}"

    def require_same_data(self, out: Path) -> None:
        """Check that the repetition has the data of the run.

        Raises:
            InputError: if not.
        """
        then, now = self.provenance.get("data"), _json(out / PROVENANCE_FILE).get("data")
        if then and now and then != now:
            raise InputError(
                f"the data of {self.folder} has changed since it ran; restore it, as nothing can "
                "be compared with other data"
            )


def _flat(about: Mapping[str, Any]) -> dict[str, str]:
    """Return what affects floating-point rounding, by name."""
    processor, packages = about.get("processor"), about.get("packages")
    processor = processor if isinstance(processor, dict) else {}
    packages = packages if isinstance(packages, dict) else {}
    found = {"Python": about.get("python"), "torch": about.get("torch")}
    found |= {"instructions": processor.get("isa"), "processor": processor.get("model")}
    found |= {name: packages.get(name) for name in ("simfl", "numpy")}
    return {name: str(value) for name, value in found.items() if value is not None}


def _require_repeatable(scenario: Scenario, folder: Path) -> None:
    sides = (("client", scenario.client.optimizer), ("server", scenario.server.optimizer))
    for place, optimizer in sides:
        plugins: list[Any] = [*optimizer.regularizers, *optimizer.modules]
        for plugin in plugins:
            if not plugin.is_deterministic:
                raise InputError(
                    f"{folder} cannot be verified: {plugin.name} of {place}.optimizer draws "
                    "numbers that no seed repeats"
                )


def _repeated(scenario: Scenario, saved: Sequence[int], count: int) -> Scenario:
    """Return the scenario with nothing that leaves the folder, and all checkpoints to compare."""
    every = scenario.checkpoint.every
    common = [round for round in saved if every and round <= count and round % every == 0]
    checkpoint = replace(scenario.checkpoint, location=None, every=0)
    if common:
        keep = 2 + (count - common[0]) // every
        checkpoint = replace(checkpoint, every=every, keep=keep)
    output = OutputSection(clients=False, best=scenario.output.best)
    return replace(scenario, checkpoint=checkpoint, output=output)


def _compare_records(run: Run, records: Sequence[RoundRecord], *, until: int) -> Mismatch | None:
    """Run the rounds and return the first record that differs; stop there."""
    done = 0
    for record in run.rounds():
        done = record.round
        if done <= len(records) and (found := _differing(records[done - 1], record)) is not None:
            return found
        if done >= until:
            return None
    if done < len(records):
        return Mismatch(done + 1, "the run", "went on", "at its end")
    return None


def _differing(then: RoundRecord, now: RoundRecord) -> Mismatch | None:
    """Return the first number of a round that differs, of those that both records have."""
    numbers = now.reproducible
    for key, value in then.reproducible.items():
        if key in numbers and numbers[key] != value:
            return Mismatch(now.round, key, repr(value), repr(numbers[key]))
    return None


def _compare_files(past: _Past, out: Path, count: int, *, is_whole: bool) -> Verdict:
    """Compare the checkpoints that both have, and the final and the best weights of a whole run."""
    storage = open_storage(out / "checkpoints")
    rounds = sorted({*past.saved} & {*saved_rounds(storage)})
    for round in rounds:
        mismatch = _differing_checkpoint(past.storage, storage, round)
        if mismatch is not None:
            return Verdict(count, tuple(rounds), False, mismatch)
    files = [
        name for name in (WEIGHTS_FILE, BEST_FILE) if is_whole and (past.folder / name).exists()
    ]
    for name in files:
        mismatch = _differing_tensor(_tensors(past.folder / name), _tensors(out / name), count)
        if mismatch is not None:
            return Verdict(count, tuple(rounds), True, mismatch)
    return Verdict(count, tuple(rounds), bool(files), None)


def _differing_checkpoint(then: Storage, now: Storage, round: int) -> Mismatch | None:
    with _explained(then):
        one, other = read_checkpoint(then, round), read_checkpoint(now, round)
        assert one.checkpoint is not None, "it was read"
        assert other.checkpoint is not None, "it was read"
        parts = ("weights", "optimizer", "algorithm", "aggregator", "sampler")
        trees = [
            encode_tree({part: getattr(found.checkpoint, part) for part in parts})
            for found in (one, other)
        ]
        (skeleton, tensors), (other_skeleton, other_tensors) = trees
        mismatch = _differing_tensor(tensors, other_tensors, round)
        if mismatch is not None:
            return mismatch
        if skeleton != other_skeleton:
            return Mismatch(round, "the server's state", "has other numbers than now")
        return _differing_client(
            _digests(then, one.checkpoint.states), _digests(now, other.checkpoint.states), round
        )


def _digests(storage: Storage, states: Mapping[int, str]) -> dict[int, str]:
    """Return the sha256 of each client's state."""
    by_shard = {shard: read_state_digests(storage, shard) for shard in {*states.values()}}
    return {client: by_shard[shard][client] for client, shard in states.items()}


def _differing_client(
    then: Mapping[int, str], now: Mapping[int, str], round: int
) -> Mismatch | None:
    differing = [c for c in sorted({*then, *now}) if then.get(c) != now.get(c)]
    if not differing:
        return None
    more = f", and those of {len(differing) - 1} more" if len(differing) > 1 else ""
    return Mismatch(round, f"the state of client {differing[0]}", f"has other bits{more}")


def _differing_tensor(
    then: Mapping[str, Tensor], now: Mapping[str, Tensor], round: int
) -> Mismatch | None:
    """Return the first tensor whose bits differ."""
    for name in dict.fromkeys([*then, *now]):
        if name not in then or name not in now:
            where = "only now" if name in now else "only then"
            return Mismatch(round, name, f"is there {where}")
        one, other = then[name].contiguous(), now[name].contiguous()
        if one.dtype != other.dtype or one.shape != other.shape:
            shapes = (f"{found.dtype} {list(found.shape)}" for found in (one, other))
            return Mismatch(round, name, *shapes)
        if not torch.equal(view_bytes(one), view_bytes(other)):
            return Mismatch(round, name, _gap(one, other))
    return None


def _gap(one: Tensor, other: Tensor) -> str:
    """Return how much two tensors of one shape differ."""
    differs = one != other
    count = int(differs.sum())
    if count == 0 or one.is_complex():
        return "has other bits"
    largest = (one.double() - other.double()).abs().max().item()
    return f"differs in {count:,} of {one.numel():,} numbers, by up to {largest:.3g}"


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(sorted(load_file(path).items()))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}; restore it") from None


def _records(path: Path) -> list[RoundRecord]:
    """Return the complete records from round 1 on."""
    records: list[RoundRecord] = []
    try:
        lines = read_regular(path, limit=_MAX_METRICS).decode(errors="replace").split("\n")
        for line in lines:
            record = RoundRecord.parse(json.loads(line, parse_constant=lambda _: None))
            if record.round != len(records) + 1:
                break
            records.append(record)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # missing, or the last line is incomplete
    return records


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def _explained(storage: Storage) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise InputError(f"{storage.location} cannot be compared: {error}") from None
