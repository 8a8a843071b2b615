"""The weights of a run's best round, kept beside the last ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from simfl.engine import Engine, Handle
from simfl.errors import CheckpointError, RunError
from simfl.record import BEST_FILE
from simfl.sections import CheckpointSection
from simfl.simulation.folder import write_files, write_weights
from simfl.simulation.judging import Watch
from simfl.vector import Vector

FOLDER = "best"
"""Where the best weights up to each checkpoint are until the run ends, in its folder."""


class BestWeights:
    """Keeps the best round's handle until its weights are written, with the next checkpoint.

    So whatever checkpoint a run continues from, the best weights of the rounds before are on disk;
    later ones will be found again.

    Args:
        folder: the run's.
        watch: says which round is the best.
        section: how often checkpoints are written, and how many are kept.
        complete: returns all weights of the model, given those that the server sends.
    """

    def __init__(
        self,
        folder: Path,
        watch: Watch,
        section: CheckpointSection,
        complete: Callable[[Vector], Vector],
    ) -> None:
        self._folder = folder
        self._watch = watch
        self._section = section
        self._complete = complete
        self._pending: tuple[int, Handle] | None = None

    def require_stored(self) -> None:
        """Check that the best weights before a checkpoint are there, from which a run continues.

        Raises:
            CheckpointError: if they are not.
        """
        best = self._watch.best_round()
        if best and not self._file(best).is_file():
            raise CheckpointError(
                f"{self._file(best)} is missing, with the best weights before the checkpoint; "
                "restore it, set output.best: null, or run the scenario in another folder"
            )

    def note(self, round: int, handle: Handle) -> None:
        """Keep the handle of a round that has just ended, if it is the best so far."""
        if self._watch.best_round() == round:
            self._pending = round, handle

    def forget(self) -> None:
        """Forget a handle that is not stored, of rounds that will be repeated."""
        self._pending = None

    def store(self, engine: Engine, *, round: int, saved: Sequence[int] | None = None) -> None:
        """Write the best weights up to a round, before its checkpoint, unless they are there.

        Args:
            engine: has the weights of the pending handle.
            round: which round.
            saved: the rounds of the checkpoints before; None: as ``checkpoint`` says.

        Raises:
            StatesLostError: if they were lost with a node.
            RunError: if they cannot be written.
        """
        if self._pending is not None:
            best, handle = self._pending
            weights = self._complete(engine.get_weights(handle))
            self._file(best).parent.mkdir(exist_ok=True)
            write_weights(self._folder, weights, name=f"{FOLDER}/{self._file(best).name}")
            self._pending = None
        self._prune([round, *(self._saved_before(round) if saved is None else saved)])

    def finish(self, engine: Engine, files: Callable[[Vector], dict[str, bytes]]) -> None:
        """Write ``best.safetensors``, and the model's files for other libraries.

        Args:
            engine: has the weights of the pending handle.
            files: returns these files by name, given all weights.

        Raises:
            RunError: if they cannot be written.
        """
        best = self._watch.best_round()
        if not best:
            return
        if self._pending is not None:
            weights = self._complete(engine.get_weights(self._pending[1]))
        else:
            weights = self._read(best)
        write_weights(self._folder, weights, name=BEST_FILE)
        named = files(weights).items()
        write_files(self._folder, {f"{FOLDER}-{name}": content for name, content in named})

    def _read(self, best: int) -> Vector:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return Vector(load_file(self._file(best)))
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{self._file(best)} cannot be read, which has the best weights: {error}; restore "
                "it, or set output.best: null, and resume the run"
            ) from None

    def _saved_before(self, round: int) -> Sequence[int]:
        """Return the rounds of a run's checkpoints up to this one, if they are still there."""
        every, keep = self._section.every, self._section.keep
        last = round - round % every
        return range(last, max(0, last - every * (keep + 1)), -every)

    def _prune(self, rounds: Sequence[int]) -> None:
        """Delete what no checkpoint of these rounds needs."""
        needed = {self._file(self._watch.best_round(each)) for each in rounds}
        for path in (self._folder / FOLDER).glob("round-*.safetensors"):
            if path not in needed:
                path.unlink(missing_ok=True)

    def _file(self, round: int) -> Path:
        return self._folder / FOLDER / f"round-{round:06d}.safetensors"
