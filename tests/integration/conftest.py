"""A Ray cluster for the tests of one session; runs attach to it and leave it be."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator

import pytest

# Not in the fixture: Ray reads them when it is imported, which may be when tests are collected.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray once, with CPUs on account for the largest test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="simfl",
        )
    yield
    with warnings.catch_warnings():
        # Ray does not wait for its processes to end; no test is responsible for that.
        warnings.simplefilter("ignore", ResourceWarning)
        ray.shutdown()
        gc.collect()
