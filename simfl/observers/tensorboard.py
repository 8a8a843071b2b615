"""TensorBoard event files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from simfl.errors import MissingExtraError
from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RoundRecord, RunInfo, Summary

__all__ = ["TensorBoard"]


@dataclass
class TensorBoard(Observer):
    """Every number of a round as a scalar, in the folder ``tensorboard`` of the run's."""

    name: ClassVar[str] = "tensorboard"

    def prepare(self) -> None:
        """See that tensorboard is installed."""
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "the observer 'tensorboard'", package="tensorboard", extra="tensorboard"
            ) from error

    def on_run_start(self, info: RunInfo) -> None:
        """Open the event file; what came after the rounds that are done is not shown."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(
            log_dir=str(info.out / "tensorboard"),
            purge_step=len(info.history) + 1 if info.history else None,
        )

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Write the round's numbers."""
        for name, value in record.items():
            if name != "round":
                self._writer.add_scalar(name, value, record["round"])

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

    def on_run_end(self, summary: Summary) -> None:
        """Close the event file."""
        self._writer.close()
