"""run, run_by_round, resume and federation, whose modules are imported when they are called.

So that what a run starts ahead starts before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from simfl.cluster.ahead import importing, starting_ahead

if TYPE_CHECKING:
    from simfl.observers import Callback
    from simfl.scenario import Baseline, Objects, Scenario, Trust
    from simfl.simulation.backends import Backend
    from simfl.simulation.loop import Federation
    from simfl.simulation.results import Result
    from simfl.simulation.runner import Run, RunOptions


def run(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    profile: bool = False,
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    baseline: Baseline | None = None,
    **objects: Unpack[Objects],
) -> Result:
    """Run a scenario to its end.

    >>> simfl.run("quickstart", model=net, data=(x, y, clients))    # doctest: +SKIP

    Args:
        scenario: as returned by ``load_scenario``, or an argument for it.
        out: the run's folder; None: a new one under ``output.dir``.
        backend: ``ray`` for actors, ``inline`` for this process; the numbers are the same.
        address: of a Ray cluster, instead of ``cluster.address``.
        progress: whether to show the progress on the terminal.
        resume: ``auto`` continues from the last checkpoint if the folder ``out`` holds a run.
        profile: whether to write flame graphs of all processes, and Ray's timeline, into
            ``profile`` in the folder.
        trust: ``none`` refuses a scenario that would run code of its author's. A scenario that is
            already loaded is taken as it is.
        callbacks: called after each round with its record, a mapping; or observers.
        baseline: ``centralized`` or ``local`` runs this baseline of the scenario instead.
        **objects: ``model``, ``loss``, ``data``, ``algorithm`` and ``aggregator`` as objects of
            Python, which replace what the scenario says; see ``simfl.scenario.Objects``.

    Raises:
        InputError: for a scenario that cannot run; nothing has been started then.
        RunError: if the run fails; its folder holds the rounds before the failure.
    """
    with ExitStack() as held:
        held.enter_context(starting_ahead(backend, address))
        with importing():
            from simfl.engine import require_profiler
            from simfl.scenario import baseline_of
            from simfl.simulation.preparing import loaded, prepare
            from simfl.simulation.rounds import PhaseClock
            from simfl.simulation.runner import RunOptions

        if profile:
            require_profiler()
        clock = PhaseClock("prepare")
        scenario = loaded(scenario, objects, address=address, trust=trust)
        scenario = scenario if baseline is None else baseline_of(scenario, baseline)
        options = RunOptions(backend, address, progress, profile, callbacks=tuple(callbacks))
        return prepare(scenario, out, options, clock, held, resume=resume).to_end()


@contextmanager
def run_by_round(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    **objects: Unpack[Objects],
) -> Iterator[Run]:
    """Start a run, for a caller that asks for its rounds.

    At the end of the block the run is finished, or stopped if rounds are left. The arguments and
    errors are those of ``run``.

    >>> with simfl.run_by_round("quickstart") as run:      # doctest: +SKIP
    ...     for record in run.rounds():
    ...         if record.train_loss < 0.1:
    ...             break
    >>> run.result.summary["status"]                      # doctest: +SKIP
    'stopped'
    """
    with ExitStack() as held:
        held.enter_context(starting_ahead(backend, address))
        from simfl.simulation.preparing import loaded, prepare
        from simfl.simulation.rounds import PhaseClock
        from simfl.simulation.runner import RunOptions

        clock = PhaseClock("prepare")
        scenario = loaded(scenario, objects, address=address, trust=trust)
        options = RunOptions(backend, address, progress, callbacks=tuple(callbacks))
        run = prepare(scenario, out, options, clock, held, resume=resume)
        with run.started():
            yield run


@contextmanager
def open_run(
    scenario: Scenario, out: str | Path, options: RunOptions | None = None
) -> Iterator[Run]:
    """Start a run, or continue the one in its folder, for a caller that asks for its rounds.

    At the end of the block the run is finished, or stopped if rounds are left; see ``Run``.

    Args:
        scenario: the scenario to run.
        out: the run's folder.
        options: how to run it.

    Raises:
        SimflError: as ``run``.
    """
    from simfl.simulation.preparing import prepare
    from simfl.simulation.rounds import PhaseClock
    from simfl.simulation.runner import RunOptions

    clock = PhaseClock("prepare")
    with ExitStack() as held:
        run = prepare(scenario, out, options or RunOptions(), clock, held, resume="auto")
        with run.started():
            yield run


@contextmanager
def federation(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    backend: Backend = "ray",
    *,
    out: str | Path | None = None,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    **objects: Unpack[Objects],
) -> Iterator[Federation]:
    """Open a scenario's federation, for a loop of one's own.

    The folder is that of a run: with the history that ``log`` writes, checkpoints by ``save``, and
    at the end of the block the weights.

    >>> with simfl.federation("quickstart", backend="inline") as fed:      # doctest: +SKIP
    ...     w = fed.initial_weights()
    ...     for r in fed.rounds:
    ...         total = fed.train(w, fed.sample(r), round=r)
    ...         w = w - total.mean
    ...         fed.log(r, **fed.evaluate(w))

    Args:
        scenario: as for ``run``.
        backend: as for ``run``.
        out: as for ``run``.
        address: as for ``run``.
        progress: as for ``run``.
        resume: ``auto`` has ``restore`` return what a loop in the folder ``out`` has saved last.
        trust: as for ``run``.
        callbacks: as for ``run``, called by ``log``.
        **objects: as for ``run``.

    Raises:
        SimflError: as ``run``.
    """
    with ExitStack() as held:
        held.enter_context(starting_ahead(backend, address))
        from simfl.simulation.preparing import loaded, prepare
        from simfl.simulation.rounds import PhaseClock
        from simfl.simulation.runner import RunOptions

        clock = PhaseClock("prepare")
        scenario = loaded(scenario, objects, address=address, trust=trust)
        options = RunOptions(backend, address, progress, callbacks=tuple(callbacks))
        run = prepare(scenario, out, options, clock, held, resume=resume, is_loop=True)
        with run.opened() as engine:
            from simfl.simulation.loop import Federation

            opened = Federation(run, engine)
            yield opened
            opened.close()


def resume(
    folder: str | Path,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    **objects: Unpack[Objects],
) -> Result:
    """Continue a run that was stopped, from its last checkpoint or else from its start.

    The numbers are those of a run that was never stopped.

    Args:
        folder: the run's.
        backend: as for ``run``; it may differ from the previous one.
        address: as for ``run``.
        progress: as for ``run``.
        trust: as for ``run``; it concerns the scenario in the folder.
        callbacks: as for ``run``.
        **objects: those that the run was given, again.

    Raises:
        InputError: if the folder holds no run, or one that is done.
        RunError: if the run fails.
    """
    with ExitStack() as held:
        held.enter_context(starting_ahead(backend, address))
        from simfl.simulation.preparing import prepare_resumed
        from simfl.simulation.runner import RunOptions

        options = RunOptions(backend, address, progress, callbacks=tuple(callbacks))
        return prepare_resumed(folder, options, held, objects, trust=trust).to_end()
