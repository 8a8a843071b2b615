"""A Ray cluster for the tests of one session; runs attach to it and leave it be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray once, with CPUs on account for the largest test."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
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
    ray.shutdown()
