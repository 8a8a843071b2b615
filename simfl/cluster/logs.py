"""What an actor writes to its log, which Ray's dashboard shows: a line an event, round and client.

Ray keeps each process's stderr in a file of its own; simfl does not have it sent to the terminal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from simfl.errors import ClientError
from simfl.messages import ChunkReport, RoundReport

log = logging.getLogger("simfl.actors")

_MAX_IDS = 20


def log_as(label: str, *, level: int) -> None:
    """Have this process write simfl's events to stderr.

    Args:
        label: the actor's, which begins each line's text.
        level: the least that is written.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {label} %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


def log_trained(report: ChunkReport) -> None:
    """Log a chunk that has been trained, and each client of it that was left out."""
    clients = [int(client) for client in report.clients.clients]
    log.info("round=%d clients=%s trained in %.3f s", report.round, _ids(clients), report.seconds)
    for client, why in report.clients.dropped.items():
        log.warning("round=%d client=%d left out: %s", report.round, client, why)


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
    """Log the error of a client's own code, with its traceback, and let it pass."""
    try:
        yield
    except ClientError as error:
        what = "round=%d client=%d failed\n%s"
        log.error(what, error.round, error.client, error.client_traceback.rstrip())
        raise


def _ids(clients: Sequence[int]) -> str:
    shown = ",".join(map(str, clients[:_MAX_IDS]))
    return shown if len(clients) <= _MAX_IDS else f"{shown},...({len(clients)})"
