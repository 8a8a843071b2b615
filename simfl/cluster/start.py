"""From recipes to a Ray engine that is ready."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simfl.client import ClientRecipe
from simfl.cluster.connect import connect
from simfl.cluster.pool import ClusterOptions, cpus_of_this_machine
from simfl.data import FederatedDataset
from simfl.server import ServerRecipe

if TYPE_CHECKING:
    from simfl.cluster.engine import RayEngine

__all__ = ["start_ray_engine"]


def start_ray_engine(
    *,
    options: ClusterOptions,
    server: ServerRecipe,
    client: ClientRecipe,
    dataset: FederatedDataset,
    cohort_size: int,
    run_name: str,
    plugins: Sequence[str] = (),
    search: Sequence[str] = (),
) -> RayEngine:
    """Connect to Ray and start the actors; what was started is ended again if that fails.

    Raises:
        ClusterError: if there is no such cluster, or it cannot hold the actors.
    """
    num_actors = dataset.num_clients if options.placement == "dedicated" else options.actors or 1
    # Ray's CPUs are an account and not a limit: what the scenario asks for may be had here.
    num_cpus = max(cpus_of_this_machine(), math.ceil(num_actors * options.num_cpus))
    connection = connect(
        address=options.address,
        num_cpus=num_cpus,
        dashboard=options.dashboard,
        object_store_memory=options.object_store_memory,
    )
    try:
        # Not before: Ray reads its settings from the environment when it is imported.
        from simfl.cluster.engine import RayEngine

        return RayEngine(
            connection,
            options=options,
            server=server,
            client=client,
            dataset=dataset,
            cohort_size=cohort_size,
            run_name=run_name,
            plugins=plugins,
            search=search,
        )
    except BaseException:
        connection.close()
        raise
