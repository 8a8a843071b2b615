"""What commands print with ``--json``: its types, of which ``simfl schema --output`` is made.

Numbers that are NaN or infinite are null. Further keys may be added in later versions.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class Error(TypedDict):
    """A fault of the input, or why a run failed."""

    kind: str
    """The class of the error, such as ScenarioError."""
    message: str
    """The line that is printed without --json."""
    file: str | None
    """The scenario file, or --set."""
    line: int | None
    """The line in the file, from 1."""
    key: str | None
    """The dotted path of the key, such as client.optimizer.modules[0]."""
    value: Any
    """What the scenario has there."""
    remedy: str | None
    """What to do, if the message says it."""
    traceback: str | None
    """That of the user's own code, or a client's."""


class Errors(TypedDict):
    """What a command prints that fails; its exit code is not 0."""

    errors: list[Error]
    """One or more, in the order of the file."""


class Ran(TypedDict):
    """What simfl run prints at the end of a run."""

    folder: str
    """The run's folder."""
    status: str
    """How it ended: done, or stopped early by its own scenario."""
    rounds: int
    """How many rounds there are in metrics.jsonl."""
    seconds: float | None
    """The wall time."""
    metrics: dict[str, float | None]
    """The numbers that summary.json has as final, by name."""


class Checked(TypedDict):
    """A scenario that was checked."""

    file: str
    """As it was given."""
    ok: bool
    """Whether it has no error."""
    notes: list[str]
    """What a run of it would print as notes."""
    errors: list[Error]
    """Its errors."""


class Validated(TypedDict):
    """What simfl validate prints; its exit code is 2 if a scenario is not ok."""

    scenarios: list[Checked]
    """In the order in which they were given."""


class PlannedNode(TypedDict):
    """A node of the cluster."""

    name: str
    """Its address, or a description."""
    resources: dict[str, float]
    """All that it has, by Ray's names."""
    actors: dict[str, int]
    """The client actors on it, by group."""


class PlannedGroup(TypedDict):
    """A group of client actors."""

    name: str
    """Its name; all: there is a single group."""
    clients: int
    """How many clients it trains."""
    actors: int
    """How many actors there is room for."""
    min_actors: int
    """How many it needs."""
    max_actors: int
    """How many it can use."""
    needs: dict[str, float]
    """What each actor takes, by Ray's names."""
    memory_bytes: int | None
    """The memory of each actor."""
    seconds: float | None
    """A round's training, on a CPU like this one's; null: it never begins."""


class Planned(TypedDict):
    """What simfl plan prints; its exit code is 1 if something is lacking."""

    nodes: list[PlannedNode]
    """The nodes of the cluster."""
    groups: list[PlannedGroup]
    """The groups of client actors."""
    bytes: dict[str, int]
    """The sizes of what is held and sent, by what it is."""
    lacks: list[str]
    """What does not fit, with remedies."""
    notes: list[str]
    """What a run of it would print as notes."""


class ClientData(TypedDict):
    """What a client holds."""

    client: int
    """Its id."""
    examples: int
    """How many examples it holds."""
    classes: dict[str, int] | None
    """How many of them each class has, by its name or number; null: there are no classes."""


class Data(TypedDict):
    """What simfl data prints."""

    num_clients: int
    """The size of the population."""
    num_train: int
    """The examples that clients train on."""
    num_holdout: int
    """The examples that clients keep for their own evaluation."""
    num_test: int
    """The examples of the test split."""
    min_examples: int
    """The examples of the smallest client."""
    median_examples: float
    """The examples of the client in the middle."""
    mean_examples: float
    """The examples of a client on average."""
    max_examples: int
    """The examples of the largest client."""
    labels: dict[str, float] | None
    """num_classes; mean_per_client, the classes of a client; mean_entropy of a client's labels and
    overall_entropy of all, in bits; null: targets are not class ids."""
    clients: list[ClientData]
    """The first clients, as many as --clients says."""


class Listed(TypedDict):
    """A run in the list that simfl ls prints."""

    folder: str
    """The run's folder."""
    name: str
    """The scenario's name, or the folder's."""
    state: str
    """running, done, failed, interrupted or stopped."""
    error: str | None
    """Why it failed."""
    round: int
    """How many rounds are done."""
    rounds: int | None
    """How many the scenario asks for."""
    metric: str | None
    """The metric that ranks runs."""
    value: float | None
    """Its latest value."""
    seconds: float | None
    """The wall time."""
    last_written: float
    """When it was last written to, in seconds since 1970."""
    faults: list[str]
    """What is missing in its folder, or damaged."""


class Difference(TypedDict):
    """A key in which two scenarios differ."""

    key: str
    """The dotted path."""
    values: list[str | None]
    """Of A and of B, as YAML; null: it does not have the key."""


class MetricDifference(TypedDict):
    """How far two runs differ in one number."""

    metric: str
    """The number's name."""
    first_round: int | None
    """The first round in which it differs; null: none."""
    final_a: float | None
    """The last value of A."""
    final_b: float | None
    """The last value of B."""
    largest: float | None
    """The largest absolute difference."""
    largest_round: int | None
    """The round with the largest difference."""
    final_difference: float | None
    """B's last value minus A's."""


class Target(TypedDict):
    """A value that a metric should reach."""

    metric: str
    """The metric."""
    value: float
    """The value."""
    from_above: bool
    """Whether smaller values are better."""


class Reached(TypedDict):
    """When a run reached the target."""

    round: int
    """The round."""
    seconds: float | None
    """From the start of the first round to the end of that one."""
    bytes: float | None
    """What clients and server have sent until then."""


class Compared(TypedDict):
    """What simfl compare prints."""

    a: str
    """The first run's folder."""
    b: str
    """The second's."""
    scenario: list[Difference]
    """The keys in which their scenarios differ."""
    common_rounds: int
    """How many rounds both have."""
    first_round: int | None
    """The first of them in which a number differs; null: all are equal."""
    metrics: list[MetricDifference]
    """Their numbers."""
    target: Target | None
    """The target, of --target or chosen."""
    reached_a: Reached | None
    """When A reached it."""
    reached_b: Reached | None
    """When B reached it."""
    faults: dict[str, list[str]]
    """What is missing or damaged, by run."""


class Trial(TypedDict):
    """A trial of a sweep."""

    number: int
    """From 0."""
    values: dict[str, Any]
    """The values that were tried, by key."""
    folder: str
    """The folder of its run."""
    state: str
    """done, stopped, failed, interrupted or waiting."""
    rounds: int
    """How many rounds are done."""
    metrics: dict[str, float | None]
    """As last measured."""
    seconds: float | None
    """The wall time."""
    error: str | None
    """Why it failed."""


class Best(TypedDict):
    """The values of a sweep that were best, on average over seeds."""

    values: dict[str, Any]
    """By key, without the seed."""
    metrics: dict[str, float | None]
    """Their means over seeds."""
    deviations: dict[str, float | None]
    """Their sample standard deviations over seeds."""
    trials: list[int]
    """The numbers of the trials with these values."""


class Swept(TypedDict):
    """What simfl sweep prints; its exit code is 1 if a trial failed."""

    folder: str
    """The sweep's folder."""
    metric: str
    """The metric that ranks trials."""
    mode: str
    """max or min: which values are better."""
    best: Best | None
    """null: no trial has the metric."""
    trials: list[Trial]
    """All of them, by number."""


class Mismatch(TypedDict):
    """The first difference between a run and its repetition."""

    round: int
    """The round."""
    what: str
    """The number, tensor or client's state."""
    then: str
    """What the run has, or how much differs."""
    now: str
    """What its repetition has; empty if then says it."""


class Verified(TypedDict):
    """What simfl verify prints; its exit code is 1 if anything differs."""

    folder: str
    """The run's."""
    same: bool
    """Whether all that was compared has the same bits."""
    rounds: int
    """How many rounds were run again."""
    checkpoints: list[int]
    """The rounds whose checkpoints were compared."""
    weights: bool
    """Whether the final weights were compared."""
    mismatch: Mismatch | None
    """The first difference."""


class Finding(TypedDict):
    """What simfl doctor found out about one thing."""

    name: str
    """What was looked at."""
    ok: bool
    """Whether runs work with it as it is."""
    found: str
    """What was found."""
    remedy: str | None
    """What to do if it is not ok, or what would be better."""


class Diagnosis(TypedDict):
    """What simfl doctor prints; its exit code is 1 if something is not ok."""

    findings: list[Finding]
    """One for each thing that was looked at."""


OUTPUTS: dict[str, Any] = {
    "run": Ran,
    "resume": Ran,
    "validate": Validated,
    "plan": Planned,
    "data": Data,
    "ls": list[Listed],
    "compare": Compared,
    "verify": Verified,
    "sweep": Swept,
    "doctor": Diagnosis,
    "show": dict[str, Any],
    "errors": Errors,
}
"""What each command prints; if it fails: errors."""


def output_schema() -> dict[str, Any]:
    """Return the JSON Schema of what each command prints with ``--json``, by its name."""
    from pydantic import TypeAdapter

    from simfl.scenario.json_schema import DIALECT, Untitled

    for value in list(globals().values()):
        if isinstance(value, type) and value.__module__ == __name__:
            # Not written in the classes: without pydantic a TypedDict has no other attributes.
            value.__pydantic_config__ = {"use_attribute_docstrings": True}  # type: ignore[attr-defined]
    definitions: dict[str, Any] = {}
    for command, kind in OUTPUTS.items():
        schema = TypeAdapter(kind).json_schema(schema_generator=Untitled)
        definitions |= schema.pop("$defs", {})
        definitions[command] = schema
    either = [{"$ref": f"#/$defs/{command}"} for command in OUTPUTS]
    return {"$schema": DIALECT, "anyOf": either, "$defs": definitions}
