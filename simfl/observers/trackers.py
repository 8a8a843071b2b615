"""Trackers: TensorBoard, MLflow, and Weights & Biases."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from simfl.errors import import_extra
from simfl.observers.observer import ClientTable, Observer, RunInfo, Summary
from simfl.record import RoundRecord

RUN_TAG = "simfl.run_id"
"""The tag by which a resumed run finds its MLflow run."""

WAITING_S = 5.0
"""How often numbers are sent: each time takes a call over the network."""

_MAX_METRICS = 1000
"""The most numbers in one call: https://mlflow.org/docs/latest/rest-api.html#log-batch"""

_MAX_PARAM = 500
"""Longer values are not sent as parameters; the scenario is sent as a file, too."""

_STATUS = {
    "done": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}

_EVENT_VERSION = "brain.Event:2"


@dataclass
class TensorBoard(Observer):
    """Every number of a round as a scalar, in the folder ``tensorboard`` of the run's."""

    name: ClassVar[str] = "tensorboard"

    def prepare(self) -> None:
        """Check that tensorboard is installed."""
        import_extra("tensorboard", what="the observer 'tensorboard'", extra="tensorboard")

    def on_run_start(self, info: RunInfo) -> None:
        """Begin an event file; TensorBoard hides later rounds of a run before it was resumed."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder = info.out / "tensorboard"
        folder.mkdir(exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)
        self._path = folder / f"events.out.tfevents.{seconds}.{rest:09d}.simfl"
        self._write(Event(file_version=_EVENT_VERSION))
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

        TensorBoard's own writer uses a thread, which prints its traceback if the disk is full.
        """
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        with self._path.open("ab") as file:
            writer: Any = RecordWriter(file)
            writer.write(event.SerializeToString())


@dataclass
class MLflow(Observer):
    """An MLflow run: the scenario as parameters and as a file, every number of a round.

    A resumed run continues the same MLflow run.
    """

    name: ClassVar[str] = "mlflow"
    logs_in: ClassVar[bool] = True

    tracking_uri: str | None = None
    """Where runs are kept, such as http://host:5000 or sqlite:///mlflow.db; null: what
    MLFLOW_TRACKING_URI says, or MLflow's own default."""
    experiment: str = "simfl"
    """The experiment they belong to; it is created if it does not exist."""

    def prepare(self) -> None:
        """Check that MLflow is installed."""
        import_extra(
            "mlflow", what="the observer 'mlflow'", extra="mlflow", package="mlflow-skinny"
        )

    def on_run_start(self, info: RunInfo) -> None:
        """Find the MLflow run of this run, or create it."""
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=self.tracking_uri)
        self._waiting: list[RoundRecord] = []
        self._sent_at = time.monotonic()
        self._known = 0
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{info.run_id}'")
        self._run_id: str = found[0].info.run_id if found else self._new_run(experiment, info)
        if found:
            self._client.update_run(self._run_id, status="RUNNING")
            history = self._client.get_metric_history(self._run_id, "train_loss")
            self._known = max((metric.step for metric in history), default=0)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Add the round, unless MLflow has it from before the run was stopped."""
        if record.round > self._known:
            self._waiting.append(record)
        if time.monotonic() - self._sent_at >= WAITING_S:
            self.flush()

    def flush(self) -> None:
        """Send what is waiting."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now_ms, record.round)
            for record in self._waiting
            for name, value in record.numbers.items()
        ]
        for start in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _MAX_METRICS])
        self._waiting, self._sent_at = [], time.monotonic()

    def on_run_end(self, summary: Summary) -> None:
        """Send the rest, and how the run ended."""
        self.flush()
        self._client.set_terminated(self._run_id, _STATUS[summary["status"]])

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self.experiment))

    def _new_run(self, experiment: str, info: RunInfo) -> str:
        from mlflow.entities import Param

        tags = {RUN_TAG: info.run_id, "simfl.folder": str(info.out.absolute())}
        run = self._client.create_run(experiment, run_name=info.out.name, tags=tags)
        params = [Param(k, v) for k, v in _flat(info.scenario).items() if len(v) <= _MAX_PARAM]
        for start in range(0, len(params), 100):
            self._client.log_batch(run.info.run_id, params=params[start : start + 100])
        self._client.log_dict(run.info.run_id, dict(info.scenario), "scenario.yaml")
        return str(run.info.run_id)


@dataclass
class WandB(Observer):
    """A Weights & Biases run: the scenario as its config, every number of a round.

    A resumed run continues the same W&B run. What was written offline is sent with
    `wandb sync --append`.
    """

    name: ClassVar[str] = "wandb"
    logs_in: ClassVar[bool] = True

    project: str = "simfl"
    """The project that runs belong to."""
    entity: str | None = None
    """The user or team; null: the default of the account that is logged in."""
    mode: Literal["online", "offline"] | None = None
    """Whether numbers are sent, or written to the folder ``wandb`` of the run's; null: what
    WANDB_MODE says, or online."""

    def prepare(self) -> None:
        """Check that wandb is installed."""
        import_extra("wandb", what="the observer 'wandb'", extra="wandb")

    def on_run_start(self, info: RunInfo) -> None:
        """Start the W&B run, or continue it: it has the id of this run."""
        import wandb

        self._run: Any = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=info.run_id,
            name=info.out.name,
            resume="allow",
            config=dict(info.scenario),
            dir=str(info.out.absolute()),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # By round: W&B's own step cannot go back to that of a checkpoint.
        self._run.define_metric("*", step_metric="round")
        self._known = int(self._run.summary.get("round") or 0)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Log the round, unless W&B has it from before the run was stopped."""
        if record.round > self._known:
            self._run.log({"round": record.round, **record.numbers})

    def on_run_end(self, summary: Summary) -> None:
        """End the W&B run."""
        self._run.finish(exit_code=int(summary["status"] not in ("done", "stopped")))


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of a mapping by dotted name, as text.

    >>> _flat({"client": {"epochs": 3, "optimizer": {"modules": ["momentum"]}}})
    {'client.epochs': '3', 'client.optimizer.modules': "['momentum']"}
    """
    if not isinstance(value, dict):
        return {prefix: str(value)}
    return {
        name: text
        for key, item in value.items()
        for name, text in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }
