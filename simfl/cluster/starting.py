"""The first start of the actors: one that dies in it is started again, like at any other time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from simfl.cluster.failures import explain, is_actor_loss
from simfl.cluster.references import Ref
from simfl.cluster.remote_server import NOTICE_S
from simfl.engine.recovery import Decision, Loss, decide

TOLD_S = 15.0
"""How long to wait for actors before a message is printed."""


def start_all(
    actors: Mapping[str, Any],
    start: Callable[[str], Ref],
    *,
    is_enough: Callable[[set[str]], bool],
    max_retries: int,
    timeout_s: float,
    tell: Callable[[list[str]], None] = lambda _: None,
) -> dict[str, Ref]:
    """Have all actors build what they host, and wait until enough of them have.

    The others may be late: torch alone takes an actor a second to import, and with as many actors
    as cores all of them take longer, while the first could be at work.

    Args:
        actors: by label.
        start: calls the actor of a label to have it do so.
        is_enough: says of the labels of those who have whether a run may begin with them.
        max_retries: how often each may die meanwhile.
        timeout_s: how long all of it may take.
        tell: receives the labels of those still missing after ``TOLD_S``, once.

    Returns:
        The calls of those that are late, by label.

    Raises:
        SimflError: if one cannot be built, dies too often, or does not answer in time.
    """
    deaths: Counter[str] = Counter()
    began = time.monotonic()
    deadline, is_told = began + timeout_s, False
    waiting = {start(label): label for label in actors}
    while waiting:
        if is_enough(actors.keys() - waiting.values()):
            break
        until = deadline if is_told else min(deadline, began + TOLD_S)
        left_s = max(0.0, until - time.monotonic())
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=left_s)
        if not ready and until < deadline:
            is_told = True
            tell(list(waiting.values()))
            continue
        if not ready:
            raise explain(GetTimeoutError(), doing=f"starting {', '.join(waiting.values())}")
        (ref,) = ready
        label = waiting.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            if not is_actor_loss(error):
                raise explain(error, doing="starting the actors") from None
            deaths[label] += 1
            decision = decide(Loss.CLIENT_ACTOR, attempt=deaths[label], max_retries=max_retries)
            if decision is Decision.ABORT:
                raise explain(error, doing=f"starting {label}") from None
            _await_process(actors[label], label, deadline)
            waiting[start(label)] = label
    return {label: ref for ref, label in waiting.items()}


def _await_process(actor: Any, label: str, deadline: float) -> None:
    """Wait until Ray has put another process in the dead one's place: calls fail until then.

    So that each failure of ``start`` is a death of its own.
    """
    while True:
        try:
            left_s = max(0.0, deadline - time.monotonic())
            ray.get(actor.process_id.remote(), timeout=left_s)
            return
        except RayError as error:
            if not is_actor_loss(error) or time.monotonic() > deadline:
                raise explain(error, doing=f"starting {label} again") from None
        time.sleep(NOTICE_S)
