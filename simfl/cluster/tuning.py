"""Trials on Ray Tune: started where there is room, stopped early, and none sinks the others.

Ray Tune decides what runs when. What a trial is, what it has brought and how it goes on after an
interruption it leaves to whoever calls: none of its own files outlive ``run_trials``.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

from simfl.cluster.session import started_with
from simfl.errors import MissingExtraError

Report: TypeAlias = "dict[str, Any]"
"""What a trial says of itself as it goes: ``round``, and numbers by name."""

Begin: TypeAlias = "Callable[[str], Generator[Report, None, None]]"
"""Begins a trial from its order's text; closing it stops the trial."""

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
    # A trial's process stays in the folder that it is started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Order:
    """A trial to be run."""

    number: int
    text: str
    """What ``Begin`` is handed."""
    bundles: Sequence[Mapping[str, float]]
    """What it takes of the cluster: its own process, then each of its actors."""
    labels: Sequence[Mapping[str, str]]
    """Which nodes each of these may be on, as Ray's label selectors have it."""
    earlier: Sequence[Report] = ()
    """What it has reported before, if it goes on and may be stopped early."""


@dataclass(frozen=True)
class Asha:
    """Early stopping: see the scenario's ``sweep.asha``."""

    max_rounds: int
    grace_rounds: int
    factor: float


class Watch(Protocol):
    """Is told what becomes of the trials, in the process that runs them."""

    def next_order(self) -> Order | None:
        """Return the next trial; None: not now."""

    @property
    def has_all(self) -> bool:
        """Whether there is no further trial."""

    @property
    def is_stopped(self) -> bool:
        """Whether all trials are to be stopped."""

    def started(self, number: int) -> None:
        """Is called when a trial begins."""

    def reported(self, number: int, report: Report) -> None:
        """Is called when a trial reports."""

    def ended(self, number: int, report: Report) -> None:
        """Is called when a trial has ended, or is being stopped, with what it last reported."""

    def lost(self, number: int, reason: str) -> None:
        """Is called when a trial's process has died for good."""


def require_tune() -> None:
    """See that Ray Tune can be imported.

    Raises:
        MissingExtraError: if something that it needs is not installed.
    """
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        package = error.name or "ray[tune]"
        raise MissingExtraError("simfl sweep", package=package, extra="tune") from error


def run_trials(
    begin: Begin,
    watch: Watch,
    *,
    metric: str,
    mode: str,
    at_once: int,
    max_retries: int,
    asha: Asha | None = None,
    finished: Iterable[Sequence[Report]] = (),
) -> None:
    """Run trials until there are no more, in the session that this process is in.

    Args:
        begin: begins a trial, in a process of its own.
        watch: hands out the trials, and is told of them.
        metric: the number in reports that trials are judged by.
        mode: ``max`` or ``min``.
        at_once: how many run at the same time.
        max_retries: how often a trial's process may die before the trial is lost.
        asha: when to stop trials early.
        finished: the reports of trials that ended before, by which early stopping goes too.
    """
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    scheduler = FIFOScheduler() if asha is None else _scheduler(asha, metric=metric, mode=mode)
    for index, reports in enumerate(finished if asha else ()):
        _recall(scheduler, f"finished-{index}", reports)
    here = _Here(watch, scheduler)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable(), begin=begin),
        lambda config: _room_for(config["bundles"], config["labels"]),
    )
    with tempfile.TemporaryDirectory(prefix="simfl-sweep-") as folder, started_with(_ENVIRONMENT):
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_orders(here),
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                verbose=0,
                callbacks=[_callback(here)],
                stop=_stopper(here),
                failure_config=tune.FailureConfig(max_failures=max_retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


class _Here:
    """Holds what belongs to this process: what Ray Tune pickles of its own is never read again."""

    def __init__(self, watch: Watch, scheduler: Any) -> None:
        self.watch = watch
        self.scheduler = scheduler

    def __reduce__(self) -> tuple[Any, ...]:
        return (object, ())


# What follows derives from Ray Tune's classes, which only a sweep is to import: so each class is
# made when it is needed.


def _trainable() -> type[Any]:
    from ray import tune

    class Trial(tune.Trainable):
        """A trial in its process: a step is what it does until its next report."""

        def setup(self, config: dict[str, Any], begin: Begin | None = None) -> None:
            assert begin is not None, "with_parameters passes it"
            self._begin = begin
            self._reports = begin(config["order"])

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            """End this trial, and begin another in its process, which saves the imports."""
            self._reports.close()
            self._reports = self._begin(new_config["order"])
            return True

        def step(self) -> Report:
            try:
                return next(self._reports)
            except StopIteration:
                return {"done": True}

        def cleanup(self) -> None:
            self._reports.close()

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Leave this to the run, which has checkpoints of its own."""

    return Trial


def _room_for(bundles: Sequence[Mapping[str, float]], labels: Sequence[Mapping[str, str]]) -> Any:
    from ray import tune

    selectors: dict[str, Any] = (
        {"bundle_label_selector": [dict(one) for one in labels]} if any(labels) else {}
    )
    return tune.PlacementGroupFactory([dict(one) for one in bundles], **selectors)


def _orders(here: _Here) -> Any:
    from ray.tune.search import Searcher

    class Orders(Searcher):
        """Hands Ray Tune the trials one by one, as it has room for them."""

        def suggest(self, trial_id: str) -> Any:
            order = here.watch.next_order()
            if order is None:
                return Searcher.FINISHED if here.watch.has_all else None
            if order.earlier:
                _recall(here.scheduler, trial_id, order.earlier)
            room = {"bundles": order.bundles, "labels": order.labels}
            return {"number": order.number, "order": order.text, **room}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Do nothing: the callback tells."""

    return Orders()


def _callback(here: _Here) -> Any:
    from ray import tune

    class Told(tune.Callback):
        """Tells the watch."""

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            here.watch.started(trial.config["number"])

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Report, **info: Any
        ) -> None:
            here.watch.reported(trial.config["number"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            here.watch.ended(trial.config["number"], trial.last_result or {})

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            here.watch.lost(trial.config["number"], "its process died (killed, or out of memory)")

    return Told()


def _stopper(here: _Here) -> Any:
    from ray import tune

    class WhenAsked(tune.Stopper):
        """Stops all trials when the watch says so."""

        def __call__(self, trial_id: str, result: Report) -> bool:
            return False

        def stop_all(self) -> bool:
            return here.watch.is_stopped

    return WhenAsked()


def _scheduler(asha: Asha, *, metric: str, mode: str) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="round",
        metric=metric,
        mode=mode,
        max_t=asha.max_rounds,
        grace_period=min(asha.grace_rounds, asha.max_rounds),
        reduction_factor=asha.factor,
        stop_last_trials=False,
    )


def _recall(scheduler: Any, trial_id: str, reports: Sequence[Report]) -> None:
    """Have the scheduler know what a trial had reported before the sweep was interrupted."""
    trial = SimpleNamespace(trial_id=trial_id)
    scheduler.on_trial_add(None, trial)
    for report in reports:
        scheduler.on_trial_result(None, trial, report)
