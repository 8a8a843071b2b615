"""The Ray session of a run: joined, attached to, or started on this machine; left at the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from simfl.cluster import ahead, forking, standing
from simfl.cluster.access import (
    address_warning,
    ask,
    find_cluster,
    keep_token_private,
    mode_warning,
    refuse_open,
    refuse_ray_client,
    require_cluster,
    token_fault,
)
from simfl.cluster.ahead import OwnCluster
from simfl.cluster.environment import (
    import_ray,
    own_environment,
    resolve_address,
    settings_for,
    started_with,
)
from simfl.cluster.processes import (
    LastWords,
    ProcessTree,
    ProcessWatch,
    children,
    vital_processes,
)
from simfl.cluster.session_folder import SessionFolder, make_session_folder
from simfl.cluster.standing import Standing
from simfl.errors import ClusterError, one_line, printable

_FREED_S = 1.0
"""How long Ray may take to count what a run that has ended has freed."""

_SHUTDOWN_S = 10.0
"""How long Ray may take to shut down a cluster that simfl started, before it is killed."""


@dataclass(frozen=True)
class Connection:
    """A Ray session that this process takes part in."""

    ray: Any
    """The ray module."""
    is_owned: bool
    """Whether this run opened the session, and so closes it."""
    is_local: bool = False
    """Whether this run started the cluster, so that all of it is on this machine."""
    is_joined: bool = False
    """Whether another process of simfl has started the cluster, ahead or by ``simfl up``."""
    dashboard: str | None = None
    """The address of the session's dashboard, if one is known."""
    watch: ProcessWatch = field(default_factory=lambda: ProcessWatch({}))
    """Watches Ray's processes on this machine; if they do not run, calls to Ray would block."""
    cleanup: ExitStack = field(default_factory=ExitStack)
    """Kills and removes what Ray's shutdown leaves of a cluster that was started for this run."""

    settled: Callable[[], None] = lambda: None
    """To be called once actors have their CPUs: other runs may wait to look for theirs."""

    def close(self) -> None:
        """Leave the session; shut down a cluster that was started for this run, and clean up."""
        if not self.is_owned:
            return
        is_well, tree = self.watch.is_well(), self.watch.tree
        self.watch.stop()
        if is_well:
            # The shutdown would block if a process was stopped after this point.
            last = threading.Timer(_SHUTDOWN_S, tree.kill)
            last.start()
            self._shut_down()
            last.cancel()
        else:
            tree.kill()
            # This takes Ray ten more seconds; the interpreter waits for the thread at exit.
            threading.Thread(target=self._shut_down).start()

    def _shut_down(self) -> None:
        self.ray.shutdown()
        self.cleanup.close()


def connect(
    *,
    address: str | None,
    num_cpus: int,
    dashboard: bool,
    object_store_memory: int | None = None,
    keeps_events: bool = False,
    forks: bool = False,
    joins: float | None = None,
    folder: SessionFolder | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Connection:
    """Join the session that this process is in, attach to a cluster, or start one on this machine.

    A cluster that is started requires Ray's token. It listens on the loopback interface only,
    unless the program imported Ray earlier. A warning is printed on stderr if the environment
    switches tokens off, or if a cluster on the network requires none.

    Args:
        address: ``host:port`` of a cluster, ``auto`` for one that runs on this machine, ``local``
            for a new one; None: ``RAY_ADDRESS`` if it is set, as in a Ray job, else a new one.
        num_cpus: the number of CPUs of a new cluster.
        dashboard: whether a new cluster serves Ray's dashboard, on the loopback interface.
        object_store_memory: the size of a new cluster's object store in bytes; None: Ray's choice.
        keeps_events: whether a new cluster records its last calls.
        forks: whether the workers of a new cluster are forked, which is faster. They have one
            thread for each of numpy's operations, and no GPU.
        joins: instead of starting a cluster, join the one that ``simfl up`` has started if it has
            as many CPUs free, or the one that was started ahead for this run; None: do not.
        folder: for the files of a new cluster; None: one is created.
        metadata: shown by Ray for the job, in addition to the metadata it was submitted with.

    Raises:
        ClusterError: if there is no cluster at the address, if it is an address of Ray Client, or
            if only one of cluster and process uses a token, or they use different ones.
    """
    where = resolve_address(address)
    refuse_ray_client(where)
    if where == "local":
        keep_token_private()
    may_join = where == "local" and joins is not None and not ahead.is_in_session()
    own = ahead.take(num_cpus if may_join else None)
    up = find_standing() if may_join and address is None and own is None else None
    ray = import_ray(address, keeps_events=keeps_events)
    with started_with(settings_for(where, keeps_events=keeps_events)):
        if ray.is_initialized():
            here = ray.get_runtime_context().gcs_address
            refuse_open(here, ask(here))
            return Connection(ray, is_owned=False)
        job = _job_config(ray, metadata or {})
        if where != "local":
            return _attach(ray, where, job_config=job)
        if up is not None and joins is not None:
            joined = _join(ray, up, joins, job_config=job)
            if joined is not None:
                return joined
        if own is not None and (started := _use(ray, own, job_config=job)) is not None:
            return started
        if fault := token_fault():
            raise ClusterError(f"the Ray cluster is to ask for a token: {fault}")
        _warn(mode_warning())
        return _start(
            ray,
            forks=forks,
            num_cpus=num_cpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=object_store_memory,
            job_config=job,
            folder=folder,
        )


def find_standing() -> Standing | None:
    """Return the cluster of ``simfl up``, if a run's actors would be the same there as elsewhere.

    If it is up, but they would not be, stderr says why.
    """
    if "RAY_ADDRESS" in os.environ or (up := standing.find()) is None:
        return None
    if (difference := up.difference(own_environment())) is None:
        return up
    _warn(
        f"this run starts its own cluster, since it has {difference} than the one of 'simfl up'; "
        "'simfl down' and 'simfl up' renew that"
    )
    return None


def chosen_address(given: str | None, named: str | None) -> str | None:
    """Return the user's cluster address, or else the scenario's, which is printed on stderr.

    The user's Ray token is sent there.
    """
    if given is None and named not in (None, "local"):
        where = printable(str(named))
        _warn(f"cluster.address names the Ray cluster at {where}; your Ray token is sent there")
    return given or named


def _job_config(ray: Any, metadata: Mapping[str, str]) -> Any:
    """Return a job's configuration that keeps the current folder off the workers' ``sys.path``.

    Ray puts that folder first, so a ``torch.py`` there would shadow the package on all workers;
    ``simfl.cluster.code`` sends them what the driver imported from there. Ray makes an exception
    for jobs of Ray Client, which is this private argument, and for a ``working_dir`` in the
    ``runtime_env``, which also changes the workers' current folder. There is no public switch.
    """
    return ray.job_config.JobConfig(metadata=dict(metadata), _client_job=True)


def _start(ray: Any, *, forks: bool, folder: SessionFolder | None, **options: Any) -> Connection:
    """Start a cluster for this run, with its files in a private folder."""
    with ExitStack() as cleanup:
        folder = folder or make_session_folder()
        last_words = LastWords([] if folder is None else folder.all)
        cleanup.callback(last_words.take_back)
        place = {}
        if folder is not None:
            cleanup.callback(folder.remove)
            place = {"RAY_TMPDIR": str(folder.path)}
        before = children()
        python: AbstractContextManager[None] = nullcontext()
        if folder is not None and forks and sys.platform == "linux":
            server = forking.take()
            cleanup.callback(server.stop)
            python = server.python(folder.path)
        try:
            with started_with(place), python:
                context = _init(ray, "local", **options)
        finally:
            tree = ProcessTree(children() - before)
            cleanup.callback(tree.kill)  # before the folder is removed
        watch = ProcessWatch(vital_processes(context.address_info), tree, notify=last_words.replace)
        return Connection(
            ray,
            is_owned=True,
            is_local=True,
            dashboard=context.dashboard_url or None,
            watch=watch,
            cleanup=cleanup.pop_all(),
        )


def _use(ray: Any, own: OwnCluster, *, job_config: Any) -> Connection | None:
    """Use the cluster that was started ahead; return None if it could not be started."""
    with ExitStack() as cleanup:
        cleanup.callback(own.kill)
        if (address := own.wait()) is None:
            return None
        _warn(mode_warning())
        context = _init(ray, address, job_config=job_config)
        cleanup.pop_all()
        cleanup.callback(own.stop)
        vital = vital_processes(context.address_info)
        watch = ProcessWatch(vital, own.processes, notify=own.last_words.replace)
        return Connection(
            ray,
            is_owned=True,
            is_local=True,
            is_joined=True,
            watch=watch,
            cleanup=cleanup.pop_all(),
        )


def _attach(ray: Any, where: str, *, job_config: Any) -> Connection:
    where = find_cluster() or where if where == "auto" else where
    require_cluster(where)
    context = _init(ray, where, job_config=job_config)
    address = str(context.address_info["gcs_address"])
    answer = ask(address)
    try:
        refuse_open(address, answer)
    except ClusterError:
        ray.shutdown()
        raise
    _warn(address_warning(address, answer) or mode_warning())
    cleanup, last_words = ExitStack(), LastWords(())
    cleanup.callback(last_words.take_back)
    watch = ProcessWatch(vital_processes(context.address_info), notify=last_words.replace)
    dashboard = context.dashboard_url or None
    return Connection(ray, is_owned=True, dashboard=dashboard, watch=watch, cleanup=cleanup)


def _join(ray: Any, up: Standing, num_cpus: float, *, job_config: Any) -> Connection | None:
    """Join the cluster of ``simfl up``; return None if it has too few CPUs free."""
    context = _init(ray, up.address, job_config=job_config)
    turn = standing.take_turn()
    reason = "other runs are still joining" if turn is None else _too_few(ray, num_cpus)
    if turn is None or reason:
        _warn(f"this run starts its own cluster, since {reason} the one of 'simfl up'")
        if turn is not None:
            turn.close()
        ray.shutdown()
        return None
    cleanup, last_words = ExitStack(), LastWords(())
    cleanup.callback(last_words.take_back)
    cleanup.callback(turn.close)
    watch = ProcessWatch(vital_processes(context.address_info), notify=last_words.replace)
    return Connection(
        ray, is_owned=True, is_joined=True, watch=watch, cleanup=cleanup, settled=turn.close
    )


def _too_few(ray: Any, num_cpus: float) -> str:
    """Return that there are too few CPUs free in a cluster, as they stay for a while; or ""."""
    until = time.monotonic() + _FREED_S
    while (free := ray.available_resources().get("CPU", 0.0)) < num_cpus:
        if time.monotonic() > until:
            return f"it needs {num_cpus:g} CPUs, and {free:g} are free in"
        time.sleep(_FREED_S / 10)
    return ""


def _init(ray: Any, where: str, **options: Any) -> Any:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    common = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "simfl"}
    try:
        context = ray.init(address=where, **options, **common)
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except Exception as error:  # Ray raises bare Exceptions, for example if the disk is full
        what = "start a Ray cluster" if where == "local" else f"use the Ray cluster at {where!r}"
        raise ClusterError(f"cannot {what}: {one_line(error)}") from error
    # Ray's handler of SIGTERM aborts the process.
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and callable(on_sigterm):
        signal.signal(signal.SIGTERM, on_sigterm)
    return context


def _warn(line: str | None) -> None:
    if line is not None:
        with suppress(BrokenPipeError):  # a run continues if its stderr is closed
            print(line, file=sys.stderr)
