"""``simfl up`` and ``simfl down``: a cluster that stays up between runs."""

from __future__ import annotations

from simfl.cli.output import say


def start_cluster() -> None:
    """Start a Ray cluster on this machine that stays up, so that runs start faster.

    Runs of this user join it if they have the same environment, and end as they do otherwise.
    """
    from simfl.cluster.standing import start

    say(f"a cluster is up at {start().address}; runs join it until 'simfl down'")


def stop_cluster() -> None:
    """End the cluster that 'simfl up' has started, and nothing else."""
    from simfl.cluster.standing import stop

    say(f"the cluster at {stop().address} has ended")
