"""Starting a Ray cluster of one's own, or attaching to one that runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from simfl.cluster.attaching import find_cluster, refuse_open, refuse_ray_client, require_cluster
from simfl.cluster.authentication import (
    AUTH_MODE,
    address_warning,
    ask,
    is_loopback,
    keep_token_private,
    mode_warning,
    token_fault,
)
from simfl.cluster.environment import HUGE_PAGES, LOOPBACK, NO_EVENTS, started_with
from simfl.cluster.last_words import LastWords
from simfl.cluster.processes import ProcessTree, ProcessWatch, children, vital_processes
from simfl.cluster.session_folder import SessionFolder, make_session_folder
from simfl.errors import ClusterError, one_line, printable

# Read by Ray once, when it is imported.
_ENVIRONMENT = {
    AUTH_MODE: "token",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # So that short runs are seen too. A gauge is forgotten after two intervals, and Ray reports
    # what a node uses every 5 s: less than 2.5 s would make that come and go.
    "RAY_metrics_report_interval_ms": "5000",
}


_SHUTDOWN_S = 10.0
"""How long Ray may take to shut down a cluster that simfl started, before it is killed."""


@dataclass(frozen=True)
class Connection:
    """A Ray session this process takes part in."""

    ray: Any
    """The ray module."""
    is_owned: bool
    """Whether this run has opened the session, and so closes it."""
    is_local: bool = False
    """Whether all of it is on this machine, since this run has started it here."""
    dashboard: str | None = None
    """The address of the session's dashboard, where it is known that there is one."""
    folder: SessionFolder | None = None
    """The folder with the files of a cluster that was started for this run."""
    last_words: LastWords | None = None
    """The message to print if this process is killed before it leaves the session."""
    watch: ProcessWatch = field(default_factory=lambda: ProcessWatch({}))
    """Watches Ray's processes on this machine."""

    def is_well(self) -> bool:
        """Say whether Ray's processes run; otherwise, calls to Ray would hang."""
        return self.watch.is_well()

    def close(self) -> None:
        """Leave the session; shut down a cluster that was started for this run, and clean up."""
        if not self.is_owned:
            return
        is_well, tree = self.watch.is_well(), self.watch.tree
        self.watch.stop()
        if is_well:
            # Ray would hang if a process was stopped from now on.
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
        self.watch.tree.kill()
        if self.folder is not None:
            self.folder.remove()
        if self.last_words is not None:
            self.last_words.take_back()


def connect(
    *,
    address: str | None,
    num_cpus: int,
    dashboard: bool,
    object_store_memory: int | None = None,
    keeps_events: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Connection:
    """Join the session there is, attach to a cluster, or start one on this machine.

    One that is started asks for Ray's token, and listens on the loopback interface alone if Ray
    has not been imported before. Where the environment switches tokens off, or a cluster on the
    network asks for none, a line on stderr says so.

    Args:
        address: ``host:port`` of a cluster, ``auto`` for one that runs on this machine, ``local``
            for a new one; None takes ``RAY_ADDRESS`` where that is set, as inside a Ray job, and
            starts a new one otherwise.
        num_cpus: how many CPUs a new cluster is to count with.
        dashboard: whether a new cluster serves Ray's dashboard, on the loopback interface.
        object_store_memory: the size of a new cluster's object store in bytes; None: Ray's choice.
        keeps_events: whether a new cluster keeps a record of its last calls.
        metadata: what Ray is to say of the job, beside what it was submitted with.

    Raises:
        ClusterError: if there is no cluster at the address, it is one of Ray Client, or it and this
            process do not use the same token, or none.
    """
    where = _where(address)
    refuse_ray_client(where)
    if where == "local":
        keep_token_private()
    ray = import_ray(address, keeps_events=keeps_events)
    with started_with(_settings(where, keeps_events=keeps_events)):
        if ray.is_initialized():
            here = ray.get_runtime_context().gcs_address
            refuse_open(here, ask(here))
            return Connection(ray, is_owned=False)
        # Ray puts the current folder first on its workers' sys.path, except for jobs of Ray Client:
        # a torch.py there would shadow the package. ``simfl.cluster.code`` sends what the driver
        # has imported from there. There is no public switch.
        job = ray.job_config.JobConfig(metadata=dict(metadata or {}), _client_job=True)
        if where != "local":
            return _attach(ray, where, job_config=job)
        if fault := token_fault():
            raise ClusterError(f"Ray is to ask for a token: {fault}")
        _warn(mode_warning())
        options: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": dashboard}
        options |= {"object_store_memory": object_store_memory, "dashboard_host": "127.0.0.1"}
        return _start(ray, **options, job_config=job)


def chosen_address(given: str | None, named: str | None) -> str | None:
    """Return the user's cluster address, or else the scenario's, which is printed on stderr.

    The user's Ray token is sent there.
    """
    if given is None and named not in (None, "local"):
        where = printable(str(named))
        _warn(f"cluster.address names the Ray cluster at {where}; your Ray token is sent there")
    return given or named


def import_ray(address: str | None, *, keeps_events: bool = False) -> Any:
    """Import Ray with what it reads from the environment at that moment, and return it.

    Args:
        address: of the cluster that is connected to afterwards, as for ``connect``.
        keeps_events: as for ``connect``.
    """
    if "ray" not in sys.modules:
        os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})
    with started_with(_settings(_where(address), keeps_events=keeps_events)):
        import ray
    return ray


def _where(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _settings(where: str, *, keeps_events: bool) -> Mapping[str, str]:
    if where == "local":
        return LOOPBACK | HUGE_PAGES | ({} if keeps_events else NO_EVENTS)
    # Whoever has imported Ray like this can attach to clusters on the network, too.
    return LOOPBACK if where == "auto" or is_loopback(where) else {}


def _start(ray: Any, **options: Any) -> Connection:
    """Start a cluster for this run, with its files in a private folder."""
    folder = make_session_folder()
    place = {} if folder is None else {"RAY_TMPDIR": str(folder.path)}
    last_words = LastWords([] if folder is None else folder.all)
    before = children()
    try:
        with started_with(place):
            context = _init(ray, "local", **options)
    except BaseException:
        ProcessTree(children() - before).kill()
        if folder is not None:
            folder.remove()
        last_words.take_back()
        raise
    tree = ProcessTree(children() - before)
    return _connection(ray, context, last_words, folder=folder, tree=tree)


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
    return _connection(ray, context, LastWords(()))


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
    _restore(on_sigterm)
    return context


def _connection(
    ray: Any,
    context: Any,
    last_words: LastWords,
    *,
    folder: SessionFolder | None = None,
    tree: ProcessTree | None = None,
) -> Connection:
    vital = vital_processes(context.address_info)
    return Connection(
        ray,
        is_owned=True,
        is_local=tree is not None,
        dashboard=context.dashboard_url or None,
        folder=folder,
        last_words=last_words,
        watch=ProcessWatch(vital, tree, tell=last_words.replace),
    )


def _warn(line: str | None) -> None:
    if line is not None:
        with suppress(BrokenPipeError):  # no run is to end since nobody reads this
            print(line, file=sys.stderr)


def _restore(on_sigterm: Any) -> None:
    """Put back a handler of SIGTERM that Ray has replaced by one which aborts the process."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and callable(on_sigterm):
        signal.signal(signal.SIGTERM, on_sigterm)
