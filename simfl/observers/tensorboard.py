"""TensorBoard event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simfl.errors import MissingExtraError
from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RoundRecord, RunInfo, Summary

__all__ = ["TensorBoard"]


class TensorBoard(Observer):
    """Writes every number of a round as a scalar, by round.

    Args:
        out: the run's folder; the files go into ``tensorboard`` in it.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "output.tensorboard", package="tensorboard", extra="tensorboard"
            ) from error
        self._writer_class: Any = SummaryWriter
        self._out = out
        self._writer: Any = None

    def on_run_start(self, info: RunInfo) -> None:
        """Open the event file."""
        self._writer = self._writer_class(
            log_dir=str(self._out / "tensorboard"),
            purge_step=len(info.history) + 1 if info.history else None,
        )

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Write the round's numbers."""
        for name, value in record.items():
            if name != "round":
                self._writer.add_scalar(name, value, record["round"])

    def on_run_end(self, summary: Summary) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
