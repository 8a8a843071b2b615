"""From a setup to a Ray engine that is ready."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from simfl.cluster.code import read_sources
from simfl.cluster.connect import connect
from simfl.cluster.placement import cpus_to_count
from simfl.cluster.setup import EngineSetup

if TYPE_CHECKING:
    from simfl.cluster.engine import RayEngine


def start_ray_engine(setup: EngineSetup) -> RayEngine:
    """Connect to Ray and start the actors; what was started is ended again if that fails.

    Raises:
        ClusterError: if there is no such cluster, or it cannot hold the actors.
    """
    options = setup.options
    connection = connect(
        address=options.address,
        num_cpus=cpus_to_count(options.groups, setup.bounds),
        dashboard=options.dashboard,
        object_store_memory=options.object_store_memory,
        keeps_events=options.dashboard or options.profile,
        # The second is what the dashboard shows as the job's name.
        metadata={"scenario": setup.scenario, "job_name": setup.scenario},
    )
    try:
        # Not before: Ray reads its settings from the environment when it is imported.
        from simfl.cluster.engine import RayEngine

        sources = read_sources((*setup.search, *searched_here()))
        # A session of the user's own may show its actors' logs on the terminal.
        sent = replace(setup, logs_events=connection.is_owned, sources=sources)
        return RayEngine(connection, sent)
    except BaseException:
        connection.close()
        raise


def searched_here() -> list[str]:
    """Return the current folder if it is on this process's sys.path, as in a notebook."""
    here = os.getcwd()
    return [here] if {"", here} & set(sys.path) else []
