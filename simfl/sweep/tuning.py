"""Trials on Ray Tune: started where there is room, and stopped early. Needs simfl[tune].

Ray Tune decides when trials run. What they are, what they result in and how they continue after an
interruption is up to the caller: Ray Tune's own files are deleted at the end of ``run_trials``.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from simfl.cluster.environment import started_with
from simfl.scenario.schema import AshaSection
from simfl.sweep.preflight import Prepared
from simfl.sweep.schedule import Schedule
from simfl.sweep.trials import Report, Trials

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
    # A trial's process stays in the folder that it is started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_MAX_RETRIES = 3
"""How often a trial's process may die before the trial is lost."""


def run_trials(trials: Trials, schedule: Schedule, prepared: Prepared, *, at_once: int) -> None:
    """Run trials until there are no more, in the Ray session of this process.

    Args:
        trials: starts a trial, in its own process.
        schedule: chooses the next trial, and is notified of each one's outcome.
        prepared: the metric that ranks trials, and their number of rounds.
        at_once: how many run at the same time.
    """
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    scheduler = _scheduler(trials.plan.section.asha, prepared)
    for trial in schedule.finished:
        _recall(scheduler, f"finished-{trial.number}", trials.earlier_reports(trial))
    config = tune.TuneConfig(
        search_alg=_Orders(schedule, scheduler),
        scheduler=scheduler,
        num_samples=-1,
        max_concurrent_trials=at_once,
        reuse_actors=True,
    )
    trainable = tune.with_resources(tune.with_parameters(_Process, trials=trials), _resources)
    with tempfile.TemporaryDirectory(prefix="simfl-sweep-") as folder, started_with(_ENVIRONMENT):
        tune.Tuner(trainable, tune_config=config, run_config=_run_config(schedule, folder)).fit()


def _run_config(schedule: Schedule, folder: str) -> tune.RunConfig:
    return tune.RunConfig(
        name="trials",
        storage_path=folder,
        verbose=0,
        callbacks=[_Events(schedule)],
        stop=_Stop(schedule),
        failure_config=tune.FailureConfig(max_failures=_MAX_RETRIES),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )


def _scheduler(asha: AshaSection | None, prepared: Prepared) -> TrialScheduler:
    if asha is None:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="round",
        metric="value",
        mode=prepared.goal.mode,
        max_t=prepared.max_rounds,
        grace_period=min(asha.grace_rounds, prepared.max_rounds),
        reduction_factor=asha.factor,
        stop_last_trials=False,
    )


def _recall(scheduler: Any, trial_id: str, reports: Sequence[Report]) -> None:
    """Tell the scheduler what a trial reported before the sweep was interrupted, if anything."""
    if not reports:
        return
    trial = SimpleNamespace(trial_id=trial_id)
    scheduler.on_trial_add(None, trial)
    for report in reports:
        scheduler.on_trial_result(None, trial, report)


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """Return what a trial needs of the cluster."""
    labels = [dict(one) for one in config["labels"]]
    selectors: dict[str, Any] = {"bundle_label_selector": labels} if any(labels) else {}
    return tune.PlacementGroupFactory([dict(one) for one in config["bundles"]], **selectors)


class _Process(tune.Trainable):
    """The process of a trial, and then of others, which saves the imports."""

    def setup(self, config: dict[str, Any], trials: Trials | None = None) -> None:
        assert trials is not None, "with_parameters passes it"
        self._trials = trials
        self._trial = trials.begin(config["order"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End this trial, and begin another one."""
        self._trial.stop()
        self._trial = self._trials.begin(new_config["order"])
        return True

    def step(self) -> Report:
        return self._trial.step()

    def cleanup(self) -> None:
        self._trial.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: the run has its own checkpoints."""


class _NotSaved:
    """Has no state to pickle: Ray Tune saves its parts to restore them, which simfl never does."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Orders(_NotSaved, Searcher):
    """Hands Ray Tune the trials one by one, as it has room for them."""

    def __init__(self, schedule: Schedule, scheduler: Any) -> None:
        super().__init__()
        self._schedule = schedule
        self._scheduler = scheduler

    def suggest(self, trial_id: str) -> Any:
        order = self._schedule.next_order()
        if order is None:
            return Searcher.FINISHED if self._schedule.has_all else None
        _recall(self._scheduler, trial_id, order.earlier)
        room = {"bundles": order.bundles, "labels": order.labels}
        return {"number": order.number, "order": order.text, **room}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: the callback tells the schedule."""


class _Events(_NotSaved, tune.Callback):
    """Tells the schedule what becomes of the trials."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._schedule.started(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Report, **info: Any
    ) -> None:
        self._schedule.reported(trial.config["number"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._schedule.ended(trial.config["number"], trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._schedule.lost(trial.config["number"], "its process died (killed, or out of memory)")


class _Stop(_NotSaved, tune.Stopper):
    """Stops all trials when the sweep is interrupted."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def __call__(self, trial_id: str, result: Report) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._schedule.is_stopped
