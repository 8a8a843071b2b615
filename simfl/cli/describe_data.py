"""``simfl data``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.options import Overrides, ScenarioFile, Trust, Trusted, load
from simfl.cli.tables import print_table, say
from simfl.errors import InputError

if TYPE_CHECKING:
    from simfl.data import DatasetSummary, FederatedDataset

_MAX_CLASSES = 30
"""A table of more columns is not readable; the picture shows the most frequent ones."""


@exit_codes()
def describe_data(
    file: ScenarioFile,
    png: Annotated[
        Path | None, typer.Option(help="Draw the label skew, and write the picture here.")
    ] = None,
    clients: Annotated[int, typer.Option(min=0, help="How many clients the table shows.")] = 10,
    overrides: Overrides = [],  # noqa: B006
    trust: Trusted = Trust.all,
) -> None:
    """Show what a scenario's clients hold: a table, and with --png a picture."""
    scenario = load(file, overrides, trust=trust)

    from simfl.data import plot_label_skew, summarize

    dataset = scenario.build_dataset()
    summary = summarize(dataset)
    print_table(("what", "value"), list(_summary_rows(summary)), title="data")
    _print_clients(dataset, num_shown=min(clients, dataset.num_clients))
    if png is None:
        return
    try:
        plot_label_skew(dataset, png)
    except OSError as error:
        raise InputError(f"cannot write the picture: {error}; choose another path") from None
    say(f"picture: {png}")


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
