"""MLflow: a run there for each run here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from simfl.errors import MissingExtraError
from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.record import RoundRecord

RUN_TAG = "simfl.run_id"
"""By which a resumed run finds its own again."""

WAITING_S = 5.0
"""How often numbers are sent: each time is a call over the network."""

_MAX_METRICS = 1000
"""As many go into one call: https://mlflow.org/docs/latest/rest-api.html#log-batch"""

_MAX_PARAM = 500
"""Longer values are not sent as parameters; the scenario is there as a file anyway."""

_STATUS = {
    "done": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@dataclass
class MLflow(Observer):
    """An MLflow run: the scenario as parameters and as a file, every number of a round.

    A resumed run goes on with the same MLflow run.
    """

    name: ClassVar[str] = "mlflow"
    logs_in: ClassVar[bool] = True

    tracking_uri: str | None = None
    """Where runs are kept, such as http://host:5000 or sqlite:///mlflow.db; null: what
    MLFLOW_TRACKING_URI says, or MLflow's own default."""
    experiment: str = "simfl"
    """The experiment they belong to; it is made if it is not there."""

    def prepare(self) -> None:
        """See that MLflow is installed."""
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "the observer 'mlflow'", package="mlflow-skinny", extra="mlflow"
            ) from error

    def on_run_start(self, info: RunInfo) -> None:
        """Find the run's own, or make it."""
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
        """Take in the round, unless MLflow has it from before the run was stopped."""
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
        """Send the rest, and say how the run has ended."""
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
