"""``simfl validate``, ``simfl plan`` and ``simfl data``: what a scenario means, before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simfl.cli.json_output import Checked, ClientData, Planned, Validated
from simfl.cli.options import (
    AsJson,
    Overrides,
    ScenarioFile,
    Trust,
    Trusted,
    complete_scenario,
    found,
    load,
)
from simfl.cli.output import BAD_INPUT, FAILED, errors_of, print_json, print_table, say
from simfl.errors import InputError, ScenarioError, SimflError

if TYPE_CHECKING:
    from simfl.data import DatasetSummary, FederatedDataset
    from simfl.simulation.planning import GroupPlan, Plan

_MAX_CLASSES = 30
"""A table of more columns is not readable; the picture shows the most frequent ones."""


def validate_scenarios(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Scenario files, or names of shipped ones.",
            autocompletion=complete_scenario,
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Check the files alone: load no data, build no model.")
    ] = False,
    no_import: Annotated[
        bool,
        typer.Option(
            "--no-import", help="Refuse scenarios that run their authors' code; import none of it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check scenarios as a run would before it starts.

    The exit code is 2 if one has an error.
    """
    trust: Trust = "none" if no_import else "all"
    scenarios = []
    for file in files:
        checked = _checked(file, overrides, with_data=not no_data, trust=trust)
        scenarios.append(checked)
        if not as_json:
            _print_checked(checked)
    if as_json:
        print_json(Validated(scenarios=scenarios))
    if not all(checked["ok"] for checked in scenarios):
        raise typer.Exit(BAD_INPUT)


def _checked(file: str, overrides: list[str], *, with_data: bool, trust: Trust) -> Checked:
    """Check one scenario; an exception that is not simfl's is that of code which it names."""
    try:
        notes = _check(file, overrides, with_data=with_data, trust=trust)
    except Exception as error:
        faults = errors_of(error)
        if not isinstance(error, ScenarioError):
            what = "" if isinstance(error, SimflError) else f"{type(error).__name__}: "
            faults[0] |= {"file": file, "message": f"{file}: {what}{error}"}
        return Checked(file=file, ok=False, notes=[], errors=faults)
    return Checked(file=file, ok=True, notes=list(notes), errors=[])


def _print_checked(checked: Checked) -> None:
    """Print ``FILE: ok`` or its faults; notes and tracebacks go to stderr."""
    for note in checked["notes"]:
        say(f"{checked['file']}: {note}", err=True)
    for trace in dict.fromkeys(error["traceback"] for error in checked["errors"]):
        if trace:
            say(trace, err=True)
    for error in checked["errors"]:
        say(error["message"])
    if checked["ok"]:
        say(f"{checked['file']}: ok")


def _check(file: str, overrides: list[str], *, with_data: bool, trust: Trust) -> tuple[str, ...]:
    """Check one scenario, and return the notes that a run of it would print."""
    scenario = load(file, overrides, trust=trust)
    if scenario.sweep is not None:
        from simfl.scenario.sweeps import load_sweep

        load_sweep(found(file), overrides=overrides, trust=trust)
    if not with_data:
        return ()

    from simfl.simulation import build

    return build(scenario).notes


def plan_run(
    file: ScenarioFile,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A running Ray cluster. Default: cluster.address, or this machine.",
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    trust: Trusted = "all",
    as_json: AsJson = False,
) -> None:
    """Show where a run would place its actors, and what they need.

    The exit code is 1 if it does not fit. A client of each group is trained here, on a CPU, to
    measure its memory and time.
    """
    scenario = load(file, overrides, trust=trust, address=address)

    from simfl.simulation import build
    from simfl.simulation.planning import make_plan

    simulation = build(scenario)
    plan = make_plan(simulation, address)
    if as_json:
        print_json(_planned(plan, simulation.notes))
    else:
        _print_plan(plan, simulation.notes)
    if plan.lacks:
        raise typer.Exit(FAILED)


def _print_plan(plan: Plan, notes: Sequence[str]) -> None:
    for note in notes:
        say(note, err=True)
    print_table(("node", "has", "client actors"), list(_node_rows(plan)), title="nodes")
    header = ("group", "clients", "actors", "each takes", "memory of each", "a round's training")
    print_table(header, [_group_row(group) for group in plan.groups], title="client actors")
    print_table(("what", "value"), list(_rows(plan)), title="data")
    for lack in plan.lacks:
        say(lack, err=True)


def _planned(plan: Plan, notes: Sequence[str]) -> Planned:
    return {
        "nodes": [
            {
                "name": node.name,
                "resources": dict(node.resources),
                "actors": {
                    group.group.name or "all": group.by_node[node.id]
                    for group in plan.groups
                    if node.id in group.by_node
                },
            }
            for node in plan.nodes
        ],
        "groups": [
            {
                "name": group.group.name or "all",
                "clients": group.num_clients,
                "actors": group.num_actors,
                "min_actors": group.bounds.least,
                "max_actors": group.bounds.most,
                "needs": group.group.needs,
                "memory_bytes": group.actor_bytes,
                "seconds": group.seconds,
            }
            for group in plan.groups
        ],
        "bytes": {
            name: getattr(plan, f"{name}_bytes")
            for name in ("dataset", "weights", "sent", "personal", "fixed")
        },
        "lacks": list(plan.lacks),
        "notes": list(notes),
    }


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
    if plan.personal_bytes:
        yield "personal weights, which each client keeps", in_bytes(plan.personal_bytes)
    if plan.fixed_bytes:
        yield "fixed weights, which are not sent", in_bytes(plan.fixed_bytes)


def describe_data(
    file: ScenarioFile,
    png: Annotated[
        Path | None, typer.Option(help="Draw the label skew, and write the picture here.")
    ] = None,
    clients: Annotated[int, typer.Option(min=0, help="How many clients the table shows.")] = 10,
    overrides: Overrides = [],  # noqa: B006
    trust: Trusted = "all",
    as_json: AsJson = False,
) -> None:
    """Show what a scenario's clients hold: a table, and with --png a picture."""
    scenario = load(file, overrides, trust=trust)

    from simfl.data import summarize
    from simfl.report.population import draw_population

    dataset = scenario.build_dataset()
    summary = summarize(dataset)
    num_shown = min(clients, dataset.num_clients)
    if png is not None:
        try:
            draw_population(dataset, png)
        except OSError as error:
            raise InputError(f"cannot write the picture: {error}; choose another path") from None
    if as_json:
        print_json(asdict(summary) | {"clients": _client_data(dataset, num_shown=num_shown)})
        return
    print_table(("what", "value"), list(_summary_rows(summary)), title="data")
    _print_clients(dataset, num_shown=num_shown)
    if png is not None:
        say(f"picture: {png}")


def _client_data(dataset: FederatedDataset, *, num_shown: int) -> list[ClientData]:
    from simfl.data import label_counts
    from simfl.data.describe import class_ids

    sizes = dataset.offsets[1:] - dataset.offsets[:-1]
    classes = class_ids(dataset)
    data: list[ClientData] = [
        {"client": client, "examples": int(sizes[client]), "classes": None}
        for client in range(num_shown)
    ]
    if classes is not None and num_shown:
        names = [_class_name(dataset, int(class_id)) for class_id in classes]
        for one, counts in zip(data, label_counts(dataset, range(num_shown)), strict=True):
            one["classes"] = dict(zip(names, counts.tolist(), strict=True))
    return data


def _summary_rows(summary: DatasetSummary) -> Iterator[tuple[str, str]]:
    yield "clients", f"{summary.num_clients:,}"
    yield "examples that clients train on", f"{summary.num_train:,}"
    yield "examples that clients keep for evaluation", f"{summary.num_holdout:,}"
    yield "examples of the test split", f"{summary.num_test:,}"
    yield "examples per client, smallest", f"{summary.min_examples:,}"
    yield "examples per client, median", f"{summary.median_examples:,g}"
    yield "examples per client, mean", f"{summary.mean_examples:,.1f}"
    yield "examples per client, largest", f"{summary.max_examples:,}"
    if summary.labels is not None:
        labels = summary.labels
        yield "classes", f"{labels.num_classes:,}"
        yield "classes per client, mean", f"{labels.mean_per_client:.2f}"
        yield "label entropy per client, mean", f"{labels.mean_entropy:.2f} bits"
        yield "label entropy over all clients", f"{labels.overall_entropy:.2f} bits"


def _print_clients(dataset: FederatedDataset, *, num_shown: int) -> None:
    """Print how many examples of each class the first clients hold."""
    from simfl.data import label_counts
    from simfl.data.describe import class_ids

    classes = class_ids(dataset)
    if classes is None or not num_shown or len(classes) > _MAX_CLASSES:
        return
    counts = label_counts(dataset, range(num_shown))
    header = ("client", "examples", *(_class_name(dataset, int(c)) for c in classes))
    rows = [
        (str(client), str(row.sum()), *map(str, row.tolist())) for client, row in enumerate(counts)
    ]
    title = f"examples of each class, {num_shown} of {dataset.num_clients:,} clients"
    print_table(header, rows, title=title)


def _class_name(dataset: FederatedDataset, class_id: int) -> str:
    names = dataset.class_names
    return names[class_id] if class_id < len(names) else str(class_id)
