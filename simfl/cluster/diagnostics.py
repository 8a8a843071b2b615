"""Diagnostics of actors: their logs, which Ray's dashboard shows, and profiles of their time.

A log has one line per event, with its round and clients. Ray keeps each process's stderr in a
separate file; simfl does not have it sent to the terminal.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError

from simfl.engine import peak_memory
from simfl.errors import ClientError
from simfl.messages import STRAGGLER, ChunkReport, RoundReport

TIMELINE_FILE = "timeline.json"

log = logging.getLogger("simfl.actors")

_MAX_IDS = 20

_MEMORY_TIMEOUT_S = 5.0

_RENDER_S = 30.0
"""How long an actor may take to render its flame graph."""

_EVENTS_S = 5.0
"""How long to wait for the last events; Ray sends them once a second."""


def ask_peak_memory(actors: Sequence[Any]) -> dict[str, int | None]:
    """Return the peak memory of driver, server and clients in bytes; None if an actor is gone.

    Args:
        actors: the server's, then the clients'.
    """
    try:
        server, *clients = ray.get(
            [actor.peak_memory.remote() for actor in actors], timeout=_MEMORY_TIMEOUT_S
        )
    except RayError:
        return {"driver": peak_memory(), "server": None, "client": None}
    known = [peak for peak in clients if peak is not None]
    return {"driver": peak_memory(), "server": server, "client": max(known, default=None)}


def log_as(label: str, *, level: int) -> None:
    """Write simfl's events in this process to stderr.

    Args:
        label: the actor's, written on each line.
        level: the lowest level that is written.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {label} %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


def log_trained(report: ChunkReport) -> None:
    """Log a chunk that was trained, and each of its clients that was dropped."""
    ids = _ids(report.clients.client)
    log.info("round=%d clients=%s trained in %.3f s", report.round, ids, report.seconds)
    for client, why in report.clients.dropped.items():
        level = logging.INFO if why == STRAGGLER else logging.WARNING
        log.log(level, "round=%d client=%d dropped: %s", report.round, client, why)


def log_round(report: RoundReport) -> None:
    """Log a round that the server has ended."""
    log.info(
        "round=%d clients=%d dropped=%d train_loss=%.4f ended",
        report.round,
        report.num_clients,
        report.num_dropped,
        report.train_loss,
    )


@contextmanager
def log_client_errors() -> Iterator[None]:
    """Log an error in a client's own code, with its traceback, and raise it again."""
    try:
        yield
    except ClientError as error:
        what = "round=%d client=%d failed\n%s"
        log.error(what, error.round, error.client, error.client_traceback.rstrip())
        raise


def _ids(clients: np.ndarray[Any, Any]) -> str:
    shown = ",".join(map(str, clients[:_MAX_IDS].tolist()))
    return shown if len(clients) <= _MAX_IDS else f"{shown},...({len(clients)})"


def write_profiles(folder: Path, actors: Mapping[str, Any]) -> None:
    """Write ``server.html``, ``client-0.html`` and so on, and Ray's ``timeline.json``.

    There is no file for an actor that has died.
    """
    pages = {label: actor.end_profile.remote() for label, actor in actors.items()}
    num_ended = 0
    for label, ref in pages.items():
        try:
            page = ray.get(ref, timeout=_RENDER_S)
        except (RayError, GetTimeoutError):
            continue
        num_ended += 1
        if page is not None:
            (folder / f"{label}.html").write_text(page, encoding="utf-8")
    events = _timeline(num_ended)
    (folder / TIMELINE_FILE).write_text(json.dumps(events), encoding="utf-8")


def _timeline(num_ended: int) -> list[dict[str, Any]]:
    """Return all events, once those of the last calls are among them."""
    deadline = time.monotonic() + _EVENTS_S
    while True:
        events: list[dict[str, Any]] = ray.timeline()
        last = [event for event in events if event["name"] == "end_profile"]
        if len(last) >= num_ended or time.monotonic() > deadline:
            return events
        time.sleep(0.1)
