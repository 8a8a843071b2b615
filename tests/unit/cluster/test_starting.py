"""The first start of actors; deaths in it are in the integration tests."""

from __future__ import annotations

import time
from unittest.mock import MagicMock

import pytest
from ray.exceptions import ActorUnavailableError

from simfl.cluster import starting
from simfl.errors import ClusterError


def test_an_actor_that_fails_at_once_each_time_is_given_up_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the driver refuses what its actors ask of it."""
    failing = MagicMock(side_effect=ActorUnavailableError("refused", b"0" * 16))
    monkeypatch.setattr(starting.ray, "get", failing)
    with pytest.raises(ClusterError, match="starting client-1 again"):
        starting._await_process(MagicMock(), "client-1", deadline=time.monotonic())
