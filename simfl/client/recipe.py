"""ClientRecipe: everything needed to build a client host; Resident: what it is built into."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from simfl.aggregation import Aggregator
from simfl.algorithms import Algorithm, FedAvg
from simfl.client.batches import ReadBatch, reader_of
from simfl.client.loss_given import LossGiven
from simfl.client.updates import ClientRow, SpareMemory
from simfl.data import Augmentation, FederatedDataset
from simfl.errors import ConfigError
from simfl.models import DataShape, Loss, Metric, ModelSpec, TorchModel, is_batch_loss
from simfl.models.base import InitialState, build_again
from simfl.models.metrics import as_metrics
from simfl.models.names import digests_of, joint_digest
from simfl.optimizer import Optimizer
from simfl.sections import ClientSection
from simfl.vector import Vector

Weighting = Literal["examples", "tokens", "steps", "uniform"]
"""How clients' deltas are weighted in the mean."""


@dataclass(frozen=True)
class ClientRecipe:
    """Everything needed to build a client host, except for the data; it is sent to the actors."""

    spec: ModelSpec
    shape: DataShape
    loss: Loss
    metrics: tuple[Metric, ...] | None
    """Measured besides the loss; None: the loss's default metrics."""
    optimizer: Optimizer
    aggregator: Aggregator
    work: ClientSection
    """What each client does in a round."""
    seed: int
    algorithm: Algorithm = field(default_factory=FedAvg)
    weighting: Weighting = "examples"
    augment: tuple[Augmentation, ...] = ()
    """How the inputs of training examples are changed at random."""
    evaluation_batch_size: int = 128
    evaluates_together: bool = True
    """Whether clients may be evaluated in one batch."""
    personal_steps: int = 0
    """How many steps clients train before they are evaluated once more."""
    stack: int = 1
    """How many clients are trained in one computation: a power of two; 1: one at a time."""
    personal: tuple[str, ...] = ()
    """The weights and buffers that each client keeps for itself, by name."""
    fixed: tuple[str, ...] = ()
    """The weights and buffers that never change, by name."""
    fixed_bytes: int = 0
    """The size of the fixed ones."""
    unsent: Mapping[str, str] = field(default_factory=dict)
    """The digests of the initial values of both, which hosts and the server do not send."""
    initial: InitialState | None = field(default=None, repr=False, compare=False)
    """What models are built from, if their base is large. It travels apart from the recipe."""

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything from a round to their next one."""
        keeps = self.optimizer.keeps_state or self.algorithm.keeps_state or bool(self.personal)
        keeps = keeps or any(transform.keeps_state for transform in self.work.transforms)
        return self.work.keep_state and keeps

    @property
    def accepts_read_only(self) -> bool:
        """Whether what clients keep and send may be ``read_only`` Vectors."""
        components = [self.algorithm, *self.work.transforms]
        accept = all(component.accepts_read_only for component in components)
        return self.optimizer.accepts_read_only and accept

    def build_metrics(self) -> tuple[Metric, ...]:
        """Return the metrics to measure besides the loss."""
        return as_metrics(self.loss.default_metrics if self.metrics is None else self.metrics)

    @property
    def base_digest(self) -> str | None:
        """The digest of all fixed weights; None if there are none."""
        digests = {name: self.unsent[name] for name in self.fixed}
        return joint_digest(digests) if digests else None

    def with_initial(self, initial: InitialState | None) -> ClientRecipe:
        """Return the recipe with what models are built from."""
        return replace(self, initial=initial)

    def build_model(self, *, device: str = "cpu") -> TorchModel:
        """Build the model with the run's initial weights, since other state may be drawn too."""
        module = build_again(self.spec, self.shape, seed=self.seed, initial=self.initial)
        model = TorchModel(
            module,
            self.loss,
            metrics=self.build_metrics(),
            precision=self.work.precision,
            fixed=self.fixed,
        )
        return model.to(device)

    def initial_personal(self, model: TorchModel) -> Vector:
        """Return the initial values of personal weights, of a model that has just been built.

        Raises:
            ConfigError: if they, or fixed weights, are not those of the run.
        """
        personal = model.live_weights(self.personal).clone()
        for name, digest in digests_of(personal | model.fixed_weights).items():
            if digest != self.unsent.get(name, digest):
                raise ConfigError(
                    f"{name!r} is built with other values here than where the run began, and is "
                    "not sent; build it from torch's generator, or from the same file everywhere"
                )
        return personal

    def weigh(self, row: ClientRow, dataset: FederatedDataset) -> float:
        """Return the weight of a client's delta."""
        if self.weighting == "tokens":
            return float(dataset.num_train_targets(row.client))
        if self.weighting == "steps":
            return float(row.losses.num_steps)
        return float(row.num_examples) if self.weighting == "examples" else 1.0


@dataclass(frozen=True)
class Resident:
    """What is resident on a host, and used by its clients in turn."""

    recipe: ClientRecipe
    model: TorchModel
    """Overwritten for each client."""
    optimizer: Optimizer
    dataset: FederatedDataset
    read: ReadBatch
    spare: SpareMemory
    """Memory for deltas."""
    device: str
    loss_given: LossGiven | None
    """Finds what a loss of a batch is given; None for other losses."""
    initial: Vector
    """The initial values of the weights that the server does not send."""


def build_resident(recipe: ClientRecipe, dataset: FederatedDataset, *, device: str) -> Resident:
    """Build what the clients of a host use in turn."""
    model = recipe.build_model(device=device)
    optimizer = copy.deepcopy(recipe.optimizer)
    optimizer.seed = recipe.seed
    read = reader_of(dataset.train, device=device)
    loss_given = None
    if is_batch_loss(recipe.loss):
        size = recipe.evaluation_batch_size
        loss_given = LossGiven(model, dataset=dataset, read=read, batch_size=size)
    return Resident(
        recipe=recipe,
        model=model,
        optimizer=optimizer,
        dataset=dataset,
        read=read,
        spare=SpareMemory(),
        device=device,
        loss_given=loss_given,
        initial=recipe.initial_personal(model),
    )
