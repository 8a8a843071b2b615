"""``simfl plan``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from simfl.cli.exit_codes import FAILED, exit_codes
from simfl.cli.options import Overrides, ScenarioFile, Trust, Trusted, load
from simfl.cli.tables import print_table, say

if TYPE_CHECKING:
    from simfl.simulation.planning import GroupPlan, Plan


@exit_codes()
def plan_run(
    file: ScenarioFile,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster. Default: cluster.address, or this machine."),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    trust: Trusted = Trust.all,
) -> None:
    """Show what a run would place where, and what it takes; exit with 1 if it does not fit.

    A client of each group is trained here, on a CPU, to see what it takes.
    """
    scenario = load(file, overrides, trust=trust, address=address)

    from simfl.simulation import build
    from simfl.simulation.planning import make_plan

    simulation = build(scenario)
    plan = make_plan(simulation, address)
    for note in simulation.notes:
        say(note, err=True)
    print_table(("node", "has", "client actors"), list(_node_rows(plan)), title="nodes")
    header = ("group", "clients", "actors", "each takes", "memory of each", "a round's training")
    print_table(header, [_group_row(group) for group in plan.groups], title="client actors")
    print_table(("what", "value"), list(_rows(plan)), title="data")
    for lack in plan.lacks:
        say(lack, err=True)
    if plan.lacks:
        raise typer.Exit(FAILED)


def _node_rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    from simfl.report.wording import in_bytes

    def has_of(resources: Mapping[str, float]) -> str:
        counts = [f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU")]
        return ", ".join([*counts, in_bytes(resources.get("memory", 0))])

    for node in plan.nodes:
        actors = [
            f"{group.by_node[node.id]} {group.group.name or 'client actors'}"
            for group in plan.groups
            if node.id in group.by_node
        ]
        yield node.name, has_of(node.resources), ", ".join(actors) or "none"
    if plan.free is not None:
        yield "free now, all nodes", has_of(plan.free), ""


def _group_row(plan: GroupPlan) -> tuple[str, ...]:
    from simfl.cluster.placement import describe_needs
    from simfl.report.wording import duration, in_bytes

    memory, seconds = plan.actor_bytes, plan.seconds
    actors = f"{plan.num_actors} of {plan.bounds.least} to {plan.bounds.most}"
    return (
        plan.group.name or "all",
        f"{plan.num_clients:,}",
        str(plan.num_actors) if plan.num_actors == plan.bounds.most else actors,
        describe_needs(plan.group),
        "not known" if memory is None else in_bytes(memory),
        "never" if seconds is None else f"{duration(seconds)}{_device_note(plan)}",
    )


def _device_note(plan: GroupPlan) -> str:
    return " on a CPU like this one" if plan.group.uses_gpu else ""


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    from simfl.report.wording import in_bytes

    yield "examples, once on each node", in_bytes(plan.dataset_bytes)
    yield "weights, to each node once a round", in_bytes(plan.weights_bytes)
    yield "updates of a round's clients, added up where they are made", in_bytes(plan.sent_bytes)
