"""What the actors have done with their time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

TIMELINE_FILE = "timeline.json"

_TIMEOUT_S = 30.0
"""How long an actor may take to render its flame graph."""

_EVENTS_S = 5.0
"""How long to wait for the last events; Ray sends them once a second."""


def write_profiles(folder: Path, actors: Mapping[str, Any]) -> None:
    """Write ``server.html``, ``client-0.html`` and so on, and Ray's ``timeline.json``.

    An actor that has died meanwhile has none.
    """
    pages = {label: actor.end_profile.remote() for label, actor in actors.items()}
    num_ended = 0
    for label, ref in pages.items():
        try:
            page = ray.get(ref, timeout=_TIMEOUT_S)
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
