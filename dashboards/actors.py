"""The dashboard of a run's actors: busy and slow actors, and the resources that they use."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import Panel, dashboard, graph
from dashboards.queries import NODE, RUN, SERVER, busy_actors, run_variable, session_variable
from simfl.cluster.telemetry import Metric

_SLOWEST = RUN.now(Metric.SLOWEST_CLIENT_SECONDS, by="actor")


def actors() -> Dashboard:
    """Return the dashboard of a run's actors."""
    return dashboard(
        "simfl-actors",
        "simfl: actors",
        "Work, slow actors, memory and machines of a run.",
        variables=[run_variable(), session_variable()],
        rows={
            "Work": _work(),
            "Memory": _memory(),
            "Machines": _machines(),
            "GPUs, if there are any": _gpus(),
        },
    )


def _work() -> list[Panel]:
    return [
        graph(
            "Busy",
            "percentunit",
            (busy_actors(RUN), "{{actor}}"),
            (RUN.rate(Metric.BUSY_SECONDS, SERVER, by="run, actor"), "{{actor}}"),
            top=1,
            width=12,
            help="Fraction of the time in which an actor trains clients, or the server takes its "
            "step. Actors without clients for five minutes are not shown: they may not exist.",
        ),
        graph(
            "Clients trained",
            "none",
            (f"{RUN.rate(Metric.TRAINED_CLIENTS, by='actor')} > 0", "{{actor}}, clients/s"),
            width=12,
        ),
        graph(
            "Slowest client of the last round",
            "s",
            (_SLOWEST, "{{actor}}"),
            width=12,
            help="An actor that is always above the others is on a slower or busier machine.",
        ),
        graph(
            "Slowest actor relative to the mean",
            "none",
            (f"max({_SLOWEST}) / avg({_SLOWEST})", "slowest / mean"),
            width=12,
        ),
    ]


def _memory() -> list[Panel]:
    return [
        graph(
            "Memory of its actors",
            "decmbytes",
            (_actor_memory("Server"), "server {{ip}}"),
            (_actor_memory("Client"), "client actors {{ip}}"),
            help="Memory used by these processes only (USS), summed by node and kind of actor.",
        ),
        graph(
            "Object store in use",
            "bytes",
            (
                NODE.now("ray_object_store_used_memory", by="NodeAddress"),
                "{{NodeAddress}}",
            ),
        ),
        graph(
            "Memory of the nodes",
            "bytes",
            (NODE.now("ray_node_mem_used", by="ip"), "{{ip}} used"),
            (NODE.now("ray_node_mem_total", by="ip"), "{{ip}} total"),
        ),
    ]


def _machines() -> list[Panel]:
    return [
        graph(
            "CPU",
            "percent",
            (NODE.now("ray_node_cpu_utilization", by="ip"), "{{ip}}"),
            top=100,
        ),
        graph(
            "Actors",
            "none",
            (
                NODE.now(
                    "ray_actors",
                    'Name=~"(Server|Client)Actor",Source="executor"',
                    by="Name, State",
                ),
                "{{Name}} {{State}}",
            ),
        ),
        graph(
            "Network",
            "Bps",
            (NODE.now("ray_node_network_send_speed", by="ip"), "{{ip}} out"),
            (NODE.now("ray_node_network_receive_speed", by="ip"), "{{ip}} in"),
        ),
    ]


def _gpus() -> list[Panel]:
    return [
        graph(
            "GPU",
            "percent",
            (
                NODE.now("ray_node_gpus_utilization", by="ip, GpuIndex"),
                "{{ip}} GPU {{GpuIndex}}",
            ),
            width=12,
        ),
        graph(
            "GPU memory",
            "decmbytes",
            (NODE.now("ray_node_gram_used", by="ip, GpuIndex"), "{{ip}} GPU {{GpuIndex}} used"),
            (
                NODE.now("ray_node_gram_available", by="ip, GpuIndex"),
                "{{ip}} GPU {{GpuIndex}} free",
            ),
            width=12,
        ),
    ]


def _actor_memory(kind: str) -> str:
    # A process is named ray::ClientActor, or ray::ClientActor.train_chunk during that call.
    return NODE.now("ray_component_uss_mb", f'Component=~"ray::{kind}Actor.*"', by="ip")
