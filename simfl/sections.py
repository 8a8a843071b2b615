"""The sections of a scenario: every key, with its type, bounds, default and meaning.

A new key is declared here and read where it is used; `simfl.scenario` checks its value, and the
JSON Schema and docs/scenario.md are generated from this file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval, MinLen

from simfl.aggregation import Aggregator, Mean, PreAggregator
from simfl.component import Count, FlatField, NonNegative, Positive, Section, required
from simfl.data import (
    Augmentation,
    FederatedDataset,
    Partition,
    Scaling,
    Source,
    build_dataset,
)
from simfl.models import CrossEntropy, Loss, Metric, ModelSpec, Precision
from simfl.observers import Observer
from simfl.optimizer import Optimizer, OptiModule, Regularizer, Schedule
from simfl.sampling import LocalWork, Sampler, Uniform
from simfl.transforms import UpdateTransform

__all__ = [
    "ActorsSection",
    "CheckpointSection",
    "ClientSection",
    "ClusterSection",
    "DataSection",
    "EvaluationSection",
    "GroupSection",
    "ModelSection",
    "NormalizeSection",
    "OptimizerSection",
    "OutputSection",
    "Seed",
    "SelectionSection",
    "ServerOptimizerSection",
    "ServerSection",
    "Whole",
]

BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Whole = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, kw_only=True)
class NormalizeSection(Section):
    """The mean and the standard deviation by which inputs are normalised when a batch is read."""

    mean: Annotated[tuple[float, ...], MinLen(1)] = required(example=[0.5])
    """One number for each channel, the first axis of an input, or one for all."""
    std: Annotated[tuple[Positive, ...], MinLen(1)] = required(example=[0.25])
    """One number for each channel, or one for all."""


@dataclass(frozen=True, kw_only=True)
class DataSection(Section):
    """Where examples come from and which client holds which; the source's fields are keys, too."""

    flat: ClassVar[FlatField | None] = FlatField(attribute="source", key="source")

    source: Source = required(example="digits")
    """Where examples come from."""
    partition: Partition | None = None
    """Which client holds which examples. null: the source's column ``client`` says so."""
    test_fraction: BelowOne = 0.0
    """The share of all examples set aside, before they are split over clients, as the test split
    of the central evaluation."""
    holdout_fraction: BelowOne = 0.0
    """The share of each client's examples that it keeps for its own evaluation."""
    client_tests: bool = False
    """Whether each client is evaluated on the source's test examples that have its id, besides the
    central evaluation on all of them."""
    public: BelowOne | Source | None = None
    """Examples that the server has, for algorithms that train it, too: the share of all examples
    that is set aside for it before they are split over clients, or another source."""

    seed: Seed | None = None
    """The seed for examples and their splits, so that runs with different seeds can have the same
    data. null: the scenario's ``seed``."""
    divide_by: Positive | None = None
    """What inputs are divided by when a batch is read, giving float32: 255 for images of bytes.
    Until then they stay what they are, in the object store and on a GPU too. null: by nothing."""
    normalize: NormalizeSection | None = None
    """The mean and the deviation of each channel, by which inputs are normalised then."""

    augment: tuple[Augmentation, ...] = ()
    """Random changes of the inputs of training examples, in order; evaluation has none. What
    an example draws depends on seed, round, client, step and its place in the batch."""

    def build_dataset(
        self, *, seed: int, client_columns: Collection[str] = (), model: ModelSpec | None = None
    ) -> FederatedDataset:
        """Load the examples and split them over clients; errors are as ``simfl.data``'s.

        Args:
            seed: of the run.
            client_columns: columns of the source that describe clients.
            model: the scenario's, whose tokenizer a source may need.
        """
        source, public = self.source, self.public
        if (whole := source.whole()) is not None:
            return whole
        if model is not None:
            source = source.for_model(model)
            public = public.for_model(model) if isinstance(public, Source) else public
        return build_dataset(
            source,
            self.partition,
            seed=seed if self.seed is None else self.seed,
            test_fraction=self.test_fraction,
            holdout_fraction=self.holdout_fraction,
            client_tests=self.client_tests,
            public=public,
            client_columns=client_columns,
            scaling=self._scaling(),
        )

    def _scaling(self) -> Scaling | None:
        if self.divide_by is None and self.normalize is None:
            return None
        normalize = self.normalize
        return Scaling(
            divide_by=self.divide_by or 1.0,
            mean=normalize.mean if normalize else (),
            std=normalize.std if normalize else (),
        )


@dataclass(frozen=True, kw_only=True)
class ModelSection(Section):
    """What is trained, and what training minimises; the model's fields are keys, too."""

    flat: ClassVar[FlatField | None] = FlatField(attribute="spec", key="kind")

    spec: ModelSpec = required(example="mlp")
    """The kind of model."""
    loss: Loss = CrossEntropy()
    """What training minimises."""
    personal: tuple[str, ...] = ()
    """The weights that each client keeps for itself, from its round to its next one: names,
    layers, patterns such as ``block*.bias``, or ``norm`` for all normalisation layers. They start
    from the model's initial values, and are never sent. Buffers are named likewise."""
    fixed: tuple[str, ...] = ()
    """The weights that stay as the model is built with, named likewise, besides those that the
    module itself freezes (``requires_grad``). They are neither trained nor sent, and not in
    ``weights.safetensors``. Layers with fixed buffers, such as the averages of BatchNorm, are in
    evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSection(Section):
    """An Optimizer: regularizers, then modules, then ``-lrate * (u + w_decay * w)``."""

    lrate: float | Schedule = required(example=0.1)
    """The learning rate: a number or a schedule."""
    w_decay: float | Schedule = 0.0
    """The weight decay, decoupled as in AdamW: a number or a schedule."""
    regularizers: tuple[Regularizer, ...] = ()
    """Terms added to the gradients which depend on the weights, in order."""
    modules: tuple[OptiModule, ...] = ()
    """Transformations of the gradients, in order."""

    def build(self) -> Optimizer:
        """Make a new Optimizer."""
        return Optimizer(
            lrate=self.lrate,
            w_decay=self.w_decay,
            regularizers=list(self.regularizers),
            modules=list(self.modules),
        )


@dataclass(frozen=True, kw_only=True)
class ServerOptimizerSection(OptimizerSection):
    """The server's Optimizer, which takes the aggregated delta for a gradient."""

    lrate: float | Schedule = 1.0
    """The learning rate, a number or a schedule; 1.0 and no modules is FedAvg."""


@dataclass(frozen=True, kw_only=True)
class _CohortSection(Section):
    """Who takes part in a round: the first keys of ``client``."""

    per_round: Count | Annotated[float, Interval(gt=0, lt=1)] | None = None
    """How many clients take part in a round: a number, or below 1 a share of the population,
    rounded to the nearest number, halves up, and at least 1. null: all of them."""
    sampler: Sampler = Uniform()
    """The rule by which they are drawn."""


@dataclass(frozen=True, kw_only=True)
class ClientSection(LocalWork, _CohortSection):
    """Who takes part in a round, and what each client does in it."""

    optimizer: OptimizerSection = required(example={"lrate": 0.1})
    """The clients' Optimizer."""
    transforms: tuple[UpdateTransform, ...] = ()
    """What becomes of each client's update before the server adds it up, in order: clipping, and at
    the end perhaps a codec. Of the weights that are trained and shared; buffers are sent as they
    are."""
    precision: Precision = "float32"
    """What models compute in while they train. bf16: matrix products and convolutions in bfloat16,
    and weights, gradients and updates in float32 (mixed precision)."""
    accumulate: Count = 1
    """Into how many micro-batches a step's examples are cut, whose gradients add up to the whole
    batch's: less memory, and the same step up to rounding. ``batch_size`` is the examples of a
    step; a micro-batch has ``batch_size / accumulate`` of them, rounded up. In transformers, these
    are ``gradient_accumulation_steps`` and ``per_device_train_batch_size``."""
    stack: Count | Literal["auto"] = "auto"
    """How many clients are trained in one computation, a power of two; 1: one at a time. auto: what
    the model and the kind of device suggest. It affects the last bits of the results. Clients that
    would get other results in a stack than alone are trained one at a time."""
    keep_state: bool = True
    """Whether a client's optimizer state lasts from a round to its next one."""
    on_failure: Literal["raise", "drop"] = "raise"
    """What happens if a client's own code raises: the run ends, or the client is dropped from the
    round and reported."""
    on_nonfinite: Literal["raise", "drop"] = "raise"
    """What happens to an update with NaN or infinite values: the run ends, or the update is dropped
    and reported."""


@dataclass(frozen=True, kw_only=True)
class ServerSection(Section):
    """How the clients' updates become the new weights."""

    optimizer: ServerOptimizerSection = ServerOptimizerSection()
    """The server's Optimizer."""
    aggregator: Aggregator = Mean()
    """How the clients' deltas become one."""
    pre_aggregators: tuple[PreAggregator, ...] = ()
    """What mixes the cohort's deltas before, in order. The server then sees every delta, and the
    aggregator weights them equally."""
    weighting: Literal["examples", "tokens", "steps", "uniform"] = "examples"
    """How clients are weighted: by their training examples, by the targets of these that count
    (tokens, in text), by their steps, or equally."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSection(Section):
    """What is measured, when, and on which examples."""

    every: Whole = 1
    """Evaluate on the test split after every so many rounds, and after the last. 0: never."""
    metrics: tuple[Metric, ...] | None = None
    """What is measured besides the loss. null: what suits the loss."""
    batch_size: Count = 128
    """The examples evaluated at once, of one client or of several small ones."""
    train_loss: bool = False
    """Whether to measure, as often, the loss of the server's weights over the training examples of
    all clients: ``global_train_loss``. It takes a pass over them."""
    clients_every: Whole = 0
    """Evaluate on each client's own examples after every so many rounds, and after the last: on
    what it keeps (``data.holdout_fraction``), on its test examples (``data.client_tests``), or all
    it has. 0: never."""
    personal_steps: Whole = 0
    """Evaluate clients also after so many steps of training on their own examples, from their
    personal weights, or else the server's. What they train then is not kept. 0: they are not."""
    new_clients: SelectionSection | None = None
    """Clients that never train, and are evaluated apart from the others. null: none."""


@dataclass(frozen=True, kw_only=True)
class ActorsSection(Section):
    """Client actors of one kind: how many, and which resources each uses."""

    actors: Count | Literal["auto"] = "auto"
    """How many client actors there are. auto: as many as the cluster has room for, and more when
    nodes join; on GPUs no more than a first stack of clients shows to fit. In one process: how many
    threads may train clients; auto: one for each CPU."""
    min_actors: Count | None = None
    """How many must be there for a round to begin. null: all of a fixed number at the start, and
    one from then on."""
    max_actors: Count | None = None
    """How many there may be, with ``actors: auto``. null: as many as clients in a round."""
    num_cpus: NonNegative = 1.0
    """The CPUs that Ray sets aside for each client actor."""
    num_gpus: NonNegative = 0.0
    """The GPU, or the share of one, that Ray reserves for each client actor: at most 1. Clients
    train on a GPU if this is more than 0, and on CPUs otherwise."""
    accelerator_type: Annotated[str, MinLen(1)] | None = None
    """The kind of GPU, such as ``A100`` or ``H200``, by Ray's names. null: any."""
    resources: dict[Annotated[str, MinLen(1)], Positive] = field(default_factory=dict)
    """The custom resources of nodes that each actor uses (``ray start --resources``)."""
    labels: dict[Annotated[str, MinLen(1)], Annotated[str, MinLen(1)]] = field(default_factory=dict)
    """The labels of the nodes it may be on, as in Ray's label selectors: ``zone: a``,
    ``zone: in(a,b)``, ``spot: "!yes"``."""
    strategy: Literal["spread", "pack", "strict_spread", "strict_pack"] = "spread"
    """How actors are placed on the nodes: evenly, on as few as possible, one on each, or all on
    one. All but ``spread`` reserve a Ray placement group, whose size stays."""


@dataclass(frozen=True, kw_only=True)
class SelectionSection(Section):
    """Some of the clients, by one of ``fraction``, ``range``, ``ids`` and ``column``."""

    fraction: Annotated[float, Interval(gt=0, le=1)] | None = None
    """The share of the population, drawn by the seed; of ``cluster.groups`` from those that no
    other group names."""
    range: tuple[Whole, Whole] | None = None
    """The first and the last id, both of them included."""
    ids: Annotated[tuple[Whole, ...], MinLen(1)] | None = None
    """The ids, one by one."""
    column: Annotated[str, MinLen(1)] | None = None
    """A column of the data that is the same for all examples of a client, such as the class of
    its device."""
    values: tuple[str | int, ...] = ()
    """The values of ``column`` that these clients have."""


@dataclass(frozen=True, kw_only=True)
class GroupSection(ActorsSection):
    """A group of client actors, and the clients that they alone train, for the whole run."""

    name: str = required(example="gpu", pattern=r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$")
    """The group's name: small letters, digits, ``-`` and ``_``."""
    clients: Literal["rest"] | SelectionSection = "rest"
    """The clients it trains. rest: those that no other group does."""
    stack: Count | None = None
    """As ``client.stack``, for this group. null: what ``client.stack`` says, or for ``auto`` what
    suits the group's kind of device."""


@dataclass(frozen=True, kw_only=True)
class ClusterSection(ActorsSection):
    """What the run uses of Ray: actors, CPUs and GPUs."""

    address_fields: ClassVar[tuple[str, ...]] = ("address",)

    placement: Literal["pool", "dedicated"] = "pool"
    """Whether a pool of actors takes any client, or each client has its own actor."""
    groups: tuple[GroupSection, ...] = ()
    """Groups of client actors, instead of a single one that the keys above describe."""
    address: str | None = None
    """The address of a running Ray cluster. null: start one on this machine."""
    autoscaling: bool = False
    """Whether the cluster starts nodes on demand. Otherwise it is an error to ask for more
    resources than its nodes have."""
    deterministic: bool = False
    """Whether GPUs use deterministic kernels only; not all models have them."""
    threads: Count = 1
    """The threads that torch uses in each client actor."""
    chunk_size: Count | Literal["auto"] = "auto"
    """How many clients an actor is given at once; the numbers do not depend on it."""
    max_retries: Whole = 3
    """How often the same chunk may crash its actor, the server may die in the same round, or the
    run may roll back to the same checkpoint, before the run ends."""
    stall_limit_s: Positive | None = None
    """How many seconds a chunk of clients, or a share of an evaluation, may take before its actor
    is killed and the work repeated; and how long the server may not answer. null: decided by
    heartbeats, and by how long such work has taken so far."""
    start_timeout_s: Positive = 180.0
    """How many seconds the actors may take to start, and all of them may be away later on, before
    the run ends."""
    object_store_memory: Annotated[int, Ge(80 << 20)] | None = None
    """The size in bytes of the object store, if the run starts the cluster. null: Ray's choice,
    30 % of the memory."""
    state_memory: Count = 1 << 30
    """How many bytes of clients' states may stay in memory between rounds; beyond that they are
    moved to the location of the checkpoints."""
    dashboard: bool = False
    """Whether to start Ray's dashboard, if the run starts the cluster."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSection(Section):
    """When a run is saved, so that it can be resumed."""

    location_fields: ClassVar[tuple[str, ...]] = ("location",)

    every: Whole = 10
    """The rounds between checkpoints, written while the next round is trained. 0: none."""
    keep: Count = 2
    """How many checkpoints are kept; the previous one is used if the last is damaged."""
    location: str | None = None
    """A folder, or a URL such as s3://bucket/runs/1, for this run alone. null: ``checkpoints`` in
    the run's folder."""


@dataclass(frozen=True, kw_only=True)
class OutputSection(Section):
    """What is written, and where."""

    dir: str = "runs"
    """The folder in which each run gets its own folder."""
    best: str | None = None
    """The metric of ``metrics.jsonl`` whose best round's weights are kept beside the last ones, in
    ``best.safetensors``; ``auto`` is the one by which runs are ranked. null: only the last ones
    are."""
    clients: bool = True
    """Whether a row for each client of a round is written, to ``clients.parquet``, and one for each
    client that was evaluated, to ``evaluations.parquet``."""
    observers: tuple[Observer, ...] = ()
    """What else is called after every round, on the driver: trackers, or your own observers."""
