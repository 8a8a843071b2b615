"""TensorBoard event files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from simfl.errors import MissingExtraError
from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RunInfo
from simfl.record import RoundRecord

_VERSION = "brain.Event:2"


@dataclass
class TensorBoard(Observer):
    """Every number of a round as a scalar, in the folder ``tensorboard`` of the run's."""

    name: ClassVar[str] = "tensorboard"

    def prepare(self) -> None:
        """See that tensorboard is installed."""
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "the observer 'tensorboard'", package="tensorboard", extra="tensorboard"
            ) from error

    def on_run_start(self, info: RunInfo) -> None:
        """Begin an event file; what came after the rounds that are done is not shown."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder = info.out / "tensorboard"
        folder.mkdir(exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)
        self._path = folder / f"events.out.tfevents.{seconds}.{rest:09d}.simfl"
        self._write(Event(file_version=_VERSION))
        if info.history:
            # https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
            began = SessionLog(status=SessionLog.START)
            self._write(Event(step=len(info.history) + 1, session_log=began))

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Write the round's numbers."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary as Scalars

        values = [
            Scalars.Value(tag=name, simple_value=value) for name, value in record.numbers.items()
        ]
        self._write(Event(step=record.round, summary=Scalars(value=values)))

    def _write(self, event: Any) -> None:
        """Append an event at once.

        TensorBoard's own writer has a thread for that, which tells of a full disk by its traceback
        on the terminal.
        """
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        with self._path.open("ab") as file:
            writer: Any = RecordWriter(file)
            writer.write(event.SerializeToString())
