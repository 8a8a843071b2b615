"""The sections of a scenario, key by key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, model_validator

from simfl.aggregation import Aggregator, Mean
from simfl.component import Count, NonNegative, Positive
from simfl.data import FederatedDataset, Partition, Scaling, Source, build_dataset
from simfl.models import CrossEntropy, Loss, Metric, ModelSpec, Precision
from simfl.observers import Observer
from simfl.optimizer import Optimizer, OptiModule, Regularizer, Schedule
from simfl.sampling import Sampler, Uniform
from simfl.scenario.document import show
from simfl.scenario.named import Named, Rate, fault
from simfl.scenario.section import FlatField, Section
from simfl.scenario.space import checked_searcher, checked_values
from simfl.scenario.trust import is_plain_location, is_untrusted

Fraction = Annotated[float, Interval(ge=0, lt=1)]
Whole = Annotated[int, Ge(0)]


class NormalizeSection(Section):
    """What is taken off inputs, and what they are divided by then, when a batch is read."""

    mean: Annotated[tuple[float, ...], MinLen(1)] = Field(examples=[[0.5]])
    """One number for each channel, the first axis of an input, or one for all."""
    std: Annotated[tuple[Positive, ...], MinLen(1)] = Field(examples=[[0.25]])
    """Likewise."""


class DataSection(Section):
    """Where examples come from and which client holds which; the source's fields lie beside."""

    flat: ClassVar[FlatField | None] = FlatField(attribute="source", key="source")

    source: Annotated[Source, Named(Source)] = Field(examples=["digits"])
    """Where examples come from."""
    partition: Annotated[Partition, Named(Partition)] | None = None
    """Which client holds which examples. null: the source's column ``client`` says so."""
    test_fraction: Fraction = 0.0
    """The share of all examples set aside, before they are split over clients, as the test split
    of the central evaluation."""
    holdout_fraction: Fraction = 0.0
    """The share of each client's examples that it keeps for its own evaluation."""

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """The seed for examples and their splits, so that runs with different seeds can have the same
    data. null: the scenario's ``seed``."""
    divide_by: Positive | None = None
    """What inputs are divided by when a batch is read, giving float32: 255 for images of bytes.
    Until then they stay what they are, in the object store and on a GPU too. null: by nothing."""
    normalize: NormalizeSection | None = None
    """The mean and the deviation of each channel, by which inputs are normalised then."""

    def build_dataset(self, *, seed: int, client_columns: Collection[str] = ()) -> FederatedDataset:
        """Load the examples and split them over clients; errors are as ``simfl.data``'s."""
        return build_dataset(
            self.source,
            self.partition,
            seed=seed if self.seed is None else self.seed,
            test_fraction=self.test_fraction,
            holdout_fraction=self.holdout_fraction,
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


class ModelSection(Section):
    """What is trained, and what training minimises; the model's fields lie beside."""

    flat: ClassVar[FlatField | None] = FlatField(attribute="spec", key="kind")

    spec: Annotated[ModelSpec, Named(ModelSpec)] = Field(examples=["mlp"])
    """The kind of model."""
    loss: Annotated[Loss, Named(Loss)] = CrossEntropy()
    """What training minimises."""


class OptimizerSection(Section):
    """An Optimizer: regularizers, then modules, then ``-lrate * (u + w_decay * w)``."""

    lrate: Annotated[float | Schedule, Rate(Schedule)] = Field(examples=[0.1])
    """The learning rate: a number or a schedule."""
    w_decay: Annotated[float | Schedule, Rate(Schedule)] = 0.0
    """The weight decay, decoupled as in AdamW: a number or a schedule."""
    regularizers: tuple[Annotated[Regularizer, Named(Regularizer)], ...] = ()
    """Terms added to the gradients which depend on the weights, in order."""
    modules: tuple[Annotated[OptiModule, Named(OptiModule)], ...] = ()
    """Transformations of the gradients, in order."""

    def build(self) -> Optimizer:
        """Make a new Optimizer."""
        return Optimizer(
            lrate=self.lrate,
            w_decay=self.w_decay,
            regularizers=list(self.regularizers),
            modules=list(self.modules),
        )


class ServerOptimizerSection(OptimizerSection):
    """The server's Optimizer, which takes the aggregated delta for a gradient."""

    lrate: Annotated[float | Schedule, Rate(Schedule)] = 1.0
    """The learning rate, a number or a schedule; 1.0 and no modules is FedAvg."""


def _epochs_or_steps(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema that not both can be given."""
    both = {name: {"type": "integer"} for name in ("epochs", "steps")}
    schema["not"] = {"properties": both, "required": list(both)}


class ClientSection(Section):
    """Who takes part in a round, and what each client does in it."""

    model_config = ConfigDict(json_schema_extra=_epochs_or_steps)

    per_round: Count | None = None
    """How many clients take part in a round. null: all of them."""
    sampler: Annotated[Sampler, Named(Sampler)] = Uniform()
    """The rule by which they are drawn."""
    epochs: Count | None = None
    """How often a client goes through its examples in a round; 1 unless ``steps`` is given."""
    steps: Count | None = None
    """How many steps a client takes in a round, instead of ``epochs``."""
    batch_size: Count | None = None
    """The examples of a step. null: all that the client holds."""
    drop_last: bool = False
    """Whether to skip the last batch of an epoch if it is smaller, unless it is the only one."""
    sclip: NonNegative | None = None
    """The L2 norm to which each example's gradient is clipped (DP-SGD). The sum of the clipped
    gradients is divided by ``batch_size``, also in a short batch; without ``batch_size``, by the
    client's number of examples. null or 0: off.
    """
    optimizer: OptimizerSection = Field(examples=[{"lrate": 0.1}])
    """The clients' Optimizer."""
    precision: Precision = "float32"
    """What models compute in while they train. bf16: matrix products and convolutions in bfloat16,
    and weights, gradients and updates in float32 (mixed precision)."""
    stack: Count | Literal["auto"] = "auto"
    """How many clients are trained in one computation, a power of two; 1: one at a time. auto: what
    the model and the kind of device suggest. It affects the last bits of the results. Clients that
    would get other results in a stack than alone are trained one at a time."""
    keep_state: bool = True
    """Whether a client's optimizer state lasts from a round to its next one."""
    on_failure: Literal["raise", "drop"] = "raise"
    """What becomes of a client whose own code raises: it ends the run, or it is left out of the
    round and counted."""
    on_nonfinite: Literal["raise", "drop"] = "raise"
    """What becomes of an update with NaN or infinite values: it ends the run, or it is left out
    and counted."""

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_by_default(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("steps") is not None:
            return values
        return values if values.get("epochs") is not None else {**values, "epochs": 1}


class ServerSection(Section):
    """How the clients' updates become the new weights."""

    optimizer: ServerOptimizerSection = ServerOptimizerSection()
    """The server's Optimizer."""
    aggregator: Annotated[Aggregator, Named(Aggregator)] = Mean()
    """How the clients' deltas become one."""
    weighting: Literal["examples", "steps", "uniform"] = "examples"
    """What a client counts by: the examples it trained on, the steps it took, or 1 each."""


class EvaluationSection(Section):
    """What is measured, when, and on which examples."""

    every: Whole = 1
    """Evaluate on the test split after every so many rounds, and after the last. 0: never."""
    metrics: tuple[Annotated[Metric, Named(Metric)], ...] | None = None
    """What is measured beside the loss. null: what suits the loss."""
    batch_size: Count = 128
    """The examples evaluated at once, of one client or of several small ones."""
    clients_every: Whole = 0
    """Evaluate on each client's own examples after every so many rounds, and after the last: on
    what it keeps (``data.holdout_fraction``), or all it has. 0: never."""


class ActorsSection(Section):
    """Client actors of one kind: how many, and what each takes of the cluster."""

    actors: Count | Literal["auto"] = "auto"
    """How many client actors there are. auto: as many as the cluster has room for, and more when
    nodes join; on GPUs no more than a first stack of clients shows to fit."""
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
    resources: dict[Annotated[str, MinLen(1)], Positive] = Field(default={})
    """What else each actor takes of what nodes were started with (``ray start --resources``)."""
    labels: dict[Annotated[str, MinLen(1)], Annotated[str, MinLen(1)]] = Field(default={})
    """The labels of the nodes it may be on, as Ray's label selectors have them: ``zone: a``,
    ``zone: in(a,b)``, ``spot: "!yes"``."""
    strategy: Literal["spread", "pack", "strict_spread", "strict_pack"] = "spread"
    """How actors are laid over the nodes: evenly, on as few as possible, one on each, or all on
    one. All but ``spread`` reserve a Ray placement group, whose size stays."""


class SelectionSection(Section):
    """The clients of a group, by one of ``fraction``, ``range``, ``ids`` and ``column``."""

    fraction: Annotated[float, Interval(gt=0, le=1)] | None = None
    """The share of the population, drawn from those that no other group names."""
    range: tuple[Whole, Whole] | None = None
    """The first and the last id, both of them included."""
    ids: Annotated[tuple[Whole, ...], MinLen(1)] | None = None
    """The ids, one by one."""
    column: Annotated[str, MinLen(1)] | None = None
    """A column of the data that is the same for all examples of a client, such as the class of
    its device."""
    values: tuple[str | int, ...] = ()
    """The values of ``column`` that the group's clients have."""


class GroupSection(ActorsSection):
    """A group of client actors, and the clients that they alone train, for the whole run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$")] = Field(
        examples=["gpu"]
    )
    """What the group is called: small letters, digits, ``-`` and ``_``."""
    clients: Literal["rest"] | SelectionSection = "rest"
    """The clients it trains. rest: those that no other group does."""
    stack: Count | None = None
    """As ``client.stack``, for this group. null: what ``client.stack`` says, or for ``auto`` what
    suits the group's kind of device."""


def _trusted_address(address: str | None, info: ValidationInfo) -> str | None:
    """Refuse an address in an untrusted scenario."""
    if address not in (None, "local") and is_untrusted(info.context):
        raise fault(
            f"is {show(address)}, where your Ray token would be sent, and trust is 'none'; remove "
            "it, and use --address if you trust that cluster"
        )
    return address


class ClusterSection(ActorsSection):
    """What the run takes of Ray: actors, CPUs and GPUs."""

    placement: Literal["pool", "dedicated"] = "pool"
    """Whether a pool of actors takes any client, or each client has an actor of its own."""
    groups: tuple[GroupSection, ...] = ()
    """Groups of client actors, instead of a single one that the keys above describe."""
    address: Annotated[str | None, AfterValidator(_trusted_address)] = None
    """The address of a running Ray cluster. null: a cluster of its own on this machine."""
    autoscaling: bool = False
    """Whether the cluster starts nodes for what has no room yet. Otherwise a demand that its nodes
    cannot meet is an error."""
    deterministic: bool = False
    """Whether GPUs use kernels only that give the same bits each time; some models have none."""
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
    """The size in bytes of the object store of a cluster of its own. null: Ray's choice, 30 % of
    the memory."""
    state_memory: Count = 1 << 30
    """How many bytes of what clients keep between rounds may stay in memory; beyond that they are
    moved to the place of checkpoints."""
    dashboard: bool = False
    """Whether Ray's dashboard runs beside a cluster of its own."""


def _trusted_location(location: str | None, info: ValidationInfo) -> str | None:
    """Refuse a location that may run code in an untrusted scenario."""
    if location is not None and is_untrusted(info.context) and not is_plain_location(location):
        raise fault(
            f"is {show(location)}, which may run code or log in as you elsewhere, and trust is "
            "'none'; use a folder, or one URL that begins with s3://, gs:// or abfs://"
        )
    return location


class CheckpointSection(Section):
    """When a run is saved, so that it can go on after it was stopped."""

    every: Whole = 10
    """Write a checkpoint after every so many rounds, while the next round is trained. 0: never."""
    keep: Count = 2
    """How many checkpoints stay; the one before the last serves if the last is damaged."""
    location: Annotated[str | None, AfterValidator(_trusted_location)] = None
    """A folder, or a URL such as s3://bucket/runs/1, for this run alone. null: ``checkpoints`` in
    the run's folder."""


class OutputSection(Section):
    """What is written, and where."""

    dir: str = "runs"
    """The folder in which each run gets one of its own."""
    clients: bool = True
    """Whether a row for each client of a round is written, to ``clients.parquet``, and one for each
    client that was evaluated, to ``evaluations.parquet``."""
    observers: tuple[Annotated[Observer, Named(Observer)], ...] = ()
    """What else is told of every round, on the driver: trackers, or your own."""


class AshaSection(Section):
    """Early stopping by ASHA (Li et al., 2020, https://arxiv.org/abs/1810.05934).

    After ``grace_rounds``, and after ``factor``, ``factor`` squared... times as many, a trial is
    stopped unless it is among the best ``1 / factor`` of those that have come as far.
    """

    grace_rounds: Count = 1
    """How many rounds every trial is given."""
    factor: Annotated[float, Gt(1)] = 4.0
    """One in how many trials goes on each time."""


class SweepSection(Section):
    """Trials: runs of this scenario with other values in some of its keys (``simfl sweep``)."""

    cases: dict[str, dict[str, Any]] = Field(
        {}, examples=[{"plain": {}, "momentum": {"client.optimizer.modules": ["momentum"]}}]
    )
    """What is tried together: values by key, under the ``label`` that trials with these get. Each
    case is combined with all of ``over``."""
    over: dict[str, Annotated[Any, AfterValidator(checked_values)]] = Field(
        {}, examples=[{"client.optimizer.lrate": [0.01, 0.1]}]
    )
    """What is tried, by key: a list, whole numbers as ``0..4``, or a draw by chance:
    ``{uniform: [0, 1]}``, ``{loguniform: [0.001, 1]}``, ``{integers: [1, 9]}`` or
    ``{choice: [a, b]}``, bounds included. All combinations of what lists hold are tried."""
    samples: Count = 1
    """How often each combination is tried, with other draws; with a searcher, the number of
    trials."""
    seed: Whole = 0
    """The seed of the draws, and of the searcher. The trials' own is the scenario's ``seed``."""
    metric: str | None = None
    """The metric of ``metrics.jsonl`` whose final value ranks the trials. null: the first metric on
    the test split, such as ``accuracy``; without a test split, its mean over clients, such as
    ``client_accuracy``; ``train_loss`` if nothing is evaluated."""
    mode: Literal["auto", "max", "min"] = "auto"
    """Which values of the metric are better. auto: the metric knows."""
    asha: AshaSection | None = None
    """Early stopping of trials that fall behind. null: every trial runs to its end."""
    searcher: Annotated[str | dict[str, Any], AfterValidator(checked_searcher)] | None = None
    """What proposes values by the results so far, instead of lists and draws by chance: the name of
    one of Ray Tune's, such as ``optuna``, or ``{kind: optuna, ...}`` with its arguments. A list is
    one of its choices."""
    concurrent: Count | Literal["auto"] = "auto"
    """How many trials run at once. auto: as many as there is room for."""
