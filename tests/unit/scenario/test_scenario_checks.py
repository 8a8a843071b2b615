"""What cannot be combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from simfl.models import Accuracy
from simfl.sampling import Choice, UniformInt
from simfl.scenario import load_scenario


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["client.epochs=2", "client.steps=5"],
            ["client.steps: is 5, but client.epochs is 2; give one of the two"],
        ),
        (
            ["client.sclip=1.5", "model.loss=[sam, {of: fedlc}]"],
            [
                "client.sclip: is 1.5, which clips the gradient of each example, but model.loss "
                "'sam' is one number for a whole batch; remove one of them"
            ],
        ),
        (
            ["client.accumulate=3", "client.batch_size=2", "model.loss=[sam, {of: fedlc}]"],
            [
                "client.accumulate: is 3, but a batch has 2 examples; lower it",
                "client.accumulate: is 3, but model.loss 'sam' depends on a batch as a whole, and "
                "would have other gradients in micro-batches; remove one of them",
            ],
        ),
        (
            ["client.epochs=0.5", "client.steps={kind: uniform-int, high: 5}"],
            [
                "client.steps: is {kind: 'uniform-int', high: 5}, but client.epochs is 0.5; "
                "give one of the two"
            ],
        ),
        (
            ["client.keep_state=false", "algorithm=feddyn"],
            [
                "client.keep_state: is false, but algorithm 'feddyn' needs what each client keeps "
                "from its last round; remove keep_state"
            ],
        ),
        (
            ["algorithm=ifca", "server.aggregator=median", "server.pre_aggregators=[nnm]"],
            [
                "server.aggregator: has no effect: algorithm 'ifca' sends no deltas; remove it",
                "server.pre_aggregators: has no effect: algorithm 'ifca' sends no deltas; "
                "remove it",
            ],
        ),
        (
            ["algorithm=fedsgd", "client.epochs=2", "client.sclip=1.0"],
            [
                "client.epochs: has no effect with algorithm 'fedsgd'; remove it",
                "client.sclip: has no effect with algorithm 'fedsgd'; remove it",
            ],
        ),
        (
            ["algorithm=scaffold", "client.sclip=0.5"],
            [
                "client.sclip: is 0.5, which clips the gradients of steps, but algorithm "
                "'scaffold' also sends gradients of all examples; remove it"
            ],
        ),
        (
            ["algorithm=afl", "server.aggregator=median"],
            [
                "server.aggregator: is 'median', which ignores clients' weights, but those of "
                "algorithm 'afl' are lambda_k; remove it"
            ],
        ),
        (
            ["server.pre_aggregators=[nnm]", "server.weighting=steps"],
            [
                "server.weighting: is 'steps', but 'nnm' in server.pre_aggregators ignores "
                "clients' weights; remove it"
            ],
        ),
        (
            [
                "algorithm=centralized",
                "client.optimizer.lrate=[exponential, {base: 0.1, factor: 0.9, unit: step}]",
            ],
            [
                "client.optimizer.lrate: goes by steps, but algorithm 'centralized' counts them "
                "anew in each round; set unit: round"
            ],
        ),
        (
            [
                "algorithm=centralized",
                "client.optimizer.modules=[momentum, scaffold-client]",
                "server.optimizer.modules=[scaffold-server]",
            ],
            [
                "client.optimizer.modules[1]: is 'scaffold-client', but with algorithm "
                "'centralized' there are no clients to exchange auxiliary variables with; remove it"
            ],
        ),
        (
            ["algorithm=ensemble", "model.loss=mse"],
            [
                "model.loss: is 'mse', which compares one output with each target, but algorithm "
                "'ensemble' needs logits of classes; use cross-entropy",
            ],
        ),
        (
            ["algorithm=em", "client.precision=bf16"],
            ["client.precision: has no effect with algorithm 'em'; remove it"],
        ),
        (
            ["algorithm=local-only", "server.optimizer={lrate: 0.5, modules: [adam]}"],
            [
                "server.optimizer.lrate: has no effect with algorithm 'local-only'; remove it",
                "server.optimizer.modules: has no effect with algorithm 'local-only'; remove it",
            ],
        ),
        (
            [
                "algorithm=pfedme",
                "client.optimizer.lrate=[exponential, {base: 0.1, factor: 0.9, unit: step}]",
            ],
            [
                "client.optimizer.lrate: goes by steps, but those that algorithm 'pfedme' takes "
                "are not counted; set unit: round"
            ],
        ),
        (
            ["algorithm=fednova", "server.weighting=uniform"],
            [
                "server.weighting: is 'uniform', but algorithm 'fednova' weights clients by "
                "examples / a_i; remove it"
            ],
        ),
        (
            ["client.per_round=11"],
            [
                "client.per_round: is 11, but the partition makes 10 clients; "
                "lower it or raise data.partition.clients"
            ],
        ),
        (
            ["client.optimizer.modules=[momentum, scaffold-client]"],
            [
                "client.optimizer.modules[1]: is 'scaffold-client', which needs its counterpart "
                "on the server; add 'scaffold-server' to server.optimizer.modules"
            ],
        ),
        (
            ["server.optimizer.modules=[scaffold-server]"],
            [
                "server.optimizer.modules[0]: is 'scaffold-server', which needs its counterpart "
                "on the client; add 'scaffold-client' to client.optimizer.modules"
            ],
        ),
        (
            [
                "client.optimizer.modules=[scaffold-client]",
                "server.optimizer.modules=[scaffold-server]",
                "client.keep_state=false",
            ],
            [
                "client.keep_state: is false, but 'scaffold-client' in "
                "client.optimizer.modules[0] needs each client's state from its last round; "
                "remove keep_state"
            ],
        ),
        (
            ["cluster.placement=dedicated", "cluster.actors=4"],
            [
                "cluster.actors: is 4, but with placement 'dedicated' there is one actor for each "
                "client; remove actors"
            ],
        ),
        (
            ["cluster.address=host:6379", "cluster.dashboard=true"],
            [
                "cluster.dashboard: is true, but the cluster at 'host:6379' has its own dashboard; "
                "remove dashboard"
            ],
        ),
        (
            ["cluster.actors=4", "cluster.max_actors=8"],
            ["cluster.max_actors: is 8, but actors is 4; remove one of them"],
        ),
        (
            ["cluster.actors=4", "cluster.min_actors=5"],
            ["cluster.min_actors: is 5, more than cluster.actors, 4; lower it"],
        ),
        (
            ["cluster.num_gpus=2"],
            [
                "cluster.num_gpus: is 2, but an actor trains on one GPU; set it to 1, and "
                "use more actors"
            ],
        ),
        (
            ["cluster.accelerator_type=H200"],
            ["cluster.accelerator_type: is 'H200', but num_gpus is 0; set num_gpus as well"],
        ),
        (
            ["cluster.num_gpus=1", "cluster.groups=[{name: a}]"],
            ["cluster.num_gpus: is 1.0, but cluster.groups are given; set it in a group"],
        ),
        (
            ["cluster.groups=[{name: a}, {name: a, clients: {fraction: 0.5}}, {name: b}]"],
            [
                "cluster.groups[1].name: is 'a', like another group's; rename one",
                "cluster.groups[2].clients: is 'rest', like another group's; only one can be",
            ],
        ),
        (
            ["cluster.groups=[{name: a, clients: {fraction: 0.5, ids: [1]}}]"],
            [
                "cluster.groups[0].clients: has fraction and ids; give one of fraction, range, ids "
                "and column"
            ],
        ),
        (
            ["cluster.groups=[{name: a, clients: {column: device}}]"],
            [
                "cluster.groups[0].clients: needs both column and values: the name of a column and "
                "the values to select"
            ],
        ),
        (
            ["cluster.groups=[{name: a, clients: {range: [5, 2]}}]"],
            ["cluster.groups[0].clients.range: is [5, 2]; the first id must not be above the last"],
        ),
        (
            ["cluster.groups=[{name: a, stack: 6}]"],
            ["cluster.groups[0].stack: is 6, but must be a power of two; take 4 or 8"],
        ),
    ],
)
def test_an_impossible_combination_is_one_clear_line(faults, minimal, overrides, expected):
    assert faults(minimal, *overrides) == [f"--set: {line}" for line in expected]


def test_two_modules_with_the_same_variables_are_refused(faults, minimal):
    both = "[scaffold-client, scaffold-client]"
    overrides = [f"client.optimizer.modules={both}", "server.optimizer.modules=[scaffold-server]"]
    assert faults(minimal, *overrides) == [
        "--set: client.optimizer.modules[1]: 'scaffold-client' has the auxiliary variables "
        "'scaffold', and so has 'scaffold-client', modules[0]; keep one of them"
    ]


def test_every_impossible_combination_is_told_at_once(faults, minimal):
    lines = faults(minimal, "client.epochs=2", "client.steps=5", "client.per_round=11")
    assert [line.split(": ")[1] for line in lines] == ["client.per_round", "client.steps"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["client.steps=5"],
        ["client.epochs=2"],
        ["client.per_round=10"],
        ["cluster.placement=dedicated"],
        ["cluster.num_gpus=0.5"],
        ["cluster.min_actors=2", "cluster.max_actors=8"],
        ["cluster.groups=[{name: gpu, num_gpus: 0.5, clients: {fraction: 0.8}}, {name: cpu}]"],
        ["client.keep_state=false", "client.optimizer.modules=[momentum]"],
        ["evaluation.clients_every=5"],
        [
            "client.optimizer.modules=[scaffold-client]",
            "server.optimizer.modules=[scaffold-server]",
        ],
    ],
)
def test_what_goes_together_is_taken(minimal, overrides):
    load_scenario(minimal, overrides=overrides)


@pytest.mark.parametrize(
    ("given", "epochs", "steps"),
    [
        ([], 1, None),
        (["client.steps=5"], None, 5),
        (["client.epochs=2"], 2, None),
        (["client.epochs=0.5"], 0.5, None),
        (["client.epochs=[uniform-int, {high: 5}]"], UniformInt(high=5), None),
        (["client.steps={kind: choice, values: [1, 9]}"], None, Choice(values=(1, 9))),
    ],
)
def test_a_client_trains_for_one_epoch_unless_told_otherwise(minimal, given, epochs, steps):
    client = load_scenario(minimal, overrides=given).client
    assert (client.epochs, client.steps) == (epochs, steps)
    assert type(client.epochs) is type(epochs), "a fingerprint has an integer as it is written"


@pytest.fixture
def called(minimal):
    """Return the scenario with a metric of this name, and evaluations of clients."""

    @dataclass(frozen=True)
    class Called(Accuracy):
        name: ClassVar[str] = "called"

        by: str = ""

        @property
        def key(self) -> str:
            return self.by

    def called(*names: str):
        metrics = [{"kind": "called", "by": name} for name in names]
        return minimal | {"evaluation": {"metrics": metrics, "clients_every": 1}}

    return called


@pytest.mark.parametrize(
    "name", ["round", "steps", "train_loss", "seconds", "seconds_left", "client", "weight"]
)
def test_a_metric_cannot_be_called_as_what_a_record_has_anyway(called, faults, name):
    assert faults(called(name)) == [
        f"evaluation.metrics: a metric has the name {name!r}, but {name!r} is a field of the "
        "records; rename it"
    ]


def test_nor_as_what_is_made_of_the_loss_over_clients(called, faults):
    assert faults(called("client_loss_std")) == [
        "evaluation.metrics: a metric has the name 'client_loss_std', but 'client_loss_std' is "
        "derived from the loss; rename it"
    ]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["f1", "client_f1"], "client_f1"),
        (["client_f1", "f1"], "client_f1"),
        (["f1_std", "f1"], "client_f1_std"),
        (["client_accuracy", "accuracy"], "client_accuracy"),
    ],
)
def test_of_two_metrics_with_a_number_of_one_name_neither_is_blamed(called, faults, names, taken):
    first, second = names
    assert faults(called(*names)) == [
        f"evaluation.metrics: the metrics {first!r} and {second!r} both give a number the name "
        f"{taken!r}; rename one that is your own"
    ]


def test_other_names_are_free(called):
    load_scenario(called("second", "rounds", "f1", "f1_by_class", "clientele"))
