"""Simulated rounds, held against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulated_cluster import Cluster, Costs, Work, simulate

FREE = Costs(*[0.0] * 10)
WORK = Work("example", clients=64, seconds=0.25, mb=0.0)


def test_takes_the_clients_time_where_all_else_is_free() -> None:
    alone = simulate(WORK, Cluster(1, 1, latency_s=0.0), FREE)
    assert alone.seconds == pytest.approx(64 * 0.25)
    assert alone.efficiency == pytest.approx(1.0)
    eight = simulate(WORK, Cluster(8, 1, latency_s=0.0), FREE)
    assert eight.seconds == pytest.approx(8 * 0.25)


def test_waits_for_a_driver_that_needs_longer_for_a_chunk_than_actors() -> None:
    slow = replace(FREE, driver_chunk=10.0)
    found = simulate(WORK, Cluster(8, 1, latency_s=0.0), slow)
    # All chunks but those that run last pass through the driver one after the other.
    assert found.busy["driver"] == pytest.approx(10.0 * found.chunks)
    assert 10.0 * found.chunks <= found.seconds <= 10.0 * found.chunks + 64 * 0.25


def test_counts_what_crosses_the_link_of_the_servers_node() -> None:
    heavy = replace(WORK, mb=125.0)  # a second on a link of 1 Gbit/s
    found = simulate(heavy, Cluster(8, 4, gbit=1.0, latency_s=0.0, combiners=False), FREE)
    # Six of the eight actors are on other nodes, and the weights go to three of these.
    assert found.busy["link"] == pytest.approx(3 + found.chunks * 6 / 8, rel=0.2)
    assert found.seconds >= found.busy["link"]


def test_adds_the_servers_costs_of_chunks_and_megabytes() -> None:
    costs = replace(
        FREE, server_round=1.0, server_chunk=2.0, server_chunk_mb=0.5, server_round_mb=0.25
    )
    found = simulate(replace(WORK, mb=4.0), Cluster(2, 1, latency_s=0.0), costs)
    assert found.busy["server"] == pytest.approx(1.0 + 1.0 + found.chunks * (2.0 + 0.5 * 4.0))


def test_nodes_that_add_up_their_partials_send_two_roots_each() -> None:
    heavy = replace(WORK, mb=125.0)
    found = simulate(heavy, Cluster(8, 4, gbit=1.0, latency_s=0.0), FREE)
    assert found.busy["link"] == pytest.approx(3 + 3 * 2)
