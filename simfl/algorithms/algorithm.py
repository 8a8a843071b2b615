"""Algorithm: a round as pure functions of values, on the clients' side and on the server's.

An algorithm's functions are called for one client or for a stack of C clients, and need not know
which. In a stack Vectors have a leading client axis and a client's numbers are tensors [C]; the
arithmetic of Vectors and of such numbers works client by client in both cases.

``docs/algorithms.md`` explains how to write one; ``simfl.testing.check_algorithm`` tests it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from torch import Tensor, nn

from simfl.component import Component
from simfl.models import Batch, Inputs, ModelFunction
from simfl.models.model_function import Objective
from simfl.optimizer import Optimizer
from simfl.states import State as State
from simfl.vector import Vector

NO_STEPS: Final = (
    *(f"client.{key}" for key in ("epochs", "steps", "drop_last", "sclip", "accumulate")),
    "data.augment",
)
"""Keys that have no effect where clients take no steps."""

NO_GRADIENT: Final = tuple(
    f"server.optimizer.{key}" for key in ("lrate", "w_decay", "regularizers", "modules")
)
"""Keys that have no effect where the server takes none."""

Fresh: TypeAlias = Callable[[int], Vector]
"""A number, from 1 -> other initial weights."""

Number: TypeAlias = "float | Tensor"
"""A client's number: a float or a 0-d tensor; of a stack, a tensor [C]."""


@dataclass(frozen=True)
class Update:
    """What a client sends, or each client of a stack."""

    delta: Vector | None = None
    """The start minus the end of its training, for the aggregator; None: no weights are sent. It
    may have fewer names than the weights, but the same ones for all clients."""
    weight: Number | None = None
    """How the delta is weighted; None: as ``server.weighting`` says."""
    sums: Mapping[str, Any] = field(default_factory=dict)
    """What else the server needs: Vectors, tensors and numbers, each added up over the cohort."""


@dataclass(frozen=True)
class Total:
    """What the cohort's updates add up to."""

    delta: Vector
    """The aggregator's result, of trainable weights; without names if no client has sent any."""
    weight: float
    """The sum of the deltas' weights."""
    clients: int
    """The number of clients that have contributed."""
    sums: Mapping[str, Any]
    """The sum of each entry of ``Update.sums``; one number per client becomes a float."""


@dataclass(frozen=True)
class ServerSide:
    """What the server's half of an algorithm may know besides the total and its state."""

    weights: Vector
    """The server's trainable weights before its step."""
    population: int
    """The number of clients that may train: all but ``evaluation.new_clients``."""
    round: int
    """Which round this is, from 1."""
    seed: int
    """The run's seed."""
    public: Local | None = None
    """The public examples as a client's, whose weights are the server's; None: there are none."""
    buffers: Vector = field(default_factory=lambda: Vector({}))
    """The server's buffers that training changes, such as BatchNorm's running statistics."""


class Local(Protocol):
    """A client's round, or that of a stack of C clients: its inputs, and its means.

    In a stack the Vectors have the client axis, except those that are the same for all clients
    (``weights`` and ``received``); arithmetic broadcasts them.
    """

    @property
    def weights(self) -> Vector:
        """What the client starts from: the server's weights.

        Trainable weights, and buffers that training changes. Personal ones (``model.personal``) are
        not among them, as an algorithm has nothing to do with them: where the model is called, and
        where training starts, simfl fills in the client's. Each ``train`` trains them by the loss
        without ``add``, and ends with those that the client then has. What an algorithm is given,
        returns or computes has no personal weights either.
        """

    @property
    def trainable(self) -> tuple[str, ...]:
        """The names of those of ``weights`` that are trained; the others are buffers.

        Norms and distances are taken over these alone: running statistics are no direction.
        """

    @property
    def received(self) -> State:
        """What ``Algorithm.send`` returned: one value for all clients."""

    @property
    def kept(self) -> State:
        """What the client kept from its last round; at first what ``Algorithm.init`` returned."""

    @property
    def clients(self) -> Tensor:
        """The ids: int64, 0-d or [C]."""

    @property
    def round(self) -> int:
        """Which round this is, from 1."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def num_examples(self) -> Tensor:
        """The number of examples the client trains on: float64, 0-d or [C]."""

    @property
    def num_steps(self) -> Tensor:
        """The number of steps that the scenario's local work amounts to: float64, 0-d or [C]."""

    @property
    def weight(self) -> Tensor:
        """How ``server.weighting`` weights the client: float64, 0-d or [C]."""

    @property
    def lrate(self) -> Number:
        """The clients' learning rate at the first step of the round."""

    def train(
        self,
        start: Vector,
        *,
        add: Callable[..., Vector] | None = None,
        objective: Objective | None = None,
        given: tuple[Any, ...] = (),
        only: Iterable[str] | None = None,
        phase: str = "",
        epochs: float | None = None,
        steps: int | None = None,
        optimizer: Optimizer | None = None,
    ) -> Vector:
        """Run the clients' Optimizer from some weights, and return those it ends with.

        Args:
            start: where training begins.
            add: ``(weights, *given)`` -> a Vector to be added to the gradients of each step.
            objective: replaces the scenario's loss.
            given: what ``add`` and ``objective`` need besides. When clients of a stack end early,
                their rows of it are taken away, which a closure's are not.
            only: the names of the weights that are trained; None: all. The main training always
                trains personal weights.
            phase: the name of a training besides the round's main one, whose name is empty. A phase
                has its own order of batches and its own optimizer state. Only the main training
                exchanges auxiliary variables with the server.
            epochs: replaces the scenario's local work.
            steps: replaces the scenario's local work.
            optimizer: replaces the clients' Optimizer; it begins anew in each round.

        Raises:
            ConfigError: if a phase is trained twice in a round.
        """

    def train_delta(self, start: Vector, **options: Any) -> Vector:
        """Return ``start - train(start, ...)``, in one pass over the weights."""

    def scan(
        self,
        step: Callable[..., State],
        carry: State,
        *,
        given: tuple[Any, ...] = (),
        phase: str = "",
        epochs: float | None = None,
        steps: int | None = None,
    ) -> State:
        """Run ``(carry, batch, *given)`` -> carry for each batch; return the last carry.

        For steps that are not the Optimizer's. In a stack every leaf of the carry has the client
        axis, and a batch that is shorter than others is padded, with ``batch.sample_weights`` of 0
        for padding and of more than 1 for its examples. The other arguments are those of ``train``.
        """

    def gradients(
        self,
        weights: Vector,
        batch: Batch,
        *,
        objective: Objective | None = None,
        given: tuple[Any, ...] = (),
    ) -> Vector:
        """Return the gradients of a batch's loss by the trainable weights, for steps of ``scan``.

        Each example's gradient is clipped if the scenario says so (``client.sclip``).
        """

    def loss(self, weights: Vector) -> Tensor:
        """Return the mean loss over all of the client's examples: 0-d or [C]."""

    def total(self, function: Callable[..., Mapping[str, Tensor]], *given: Any) -> State:
        """Add up ``(model, batch, *given)`` -> tensors of one client over all of its examples.

        ``batch.sample_weights`` are 0 for padding, and 1 for the client's examples, so each
        tensor must be a sum over the examples that is weighted by them.
        """

    def names(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the weights and buffers in some layers of the model.

        Raises:
            ConfigError: if the model has no such layer.
        """


class Algorithm(Component, kind="algorithm"):
    """What the clients do in a round, and what the server makes of it.

    The methods of this class are FedAvg; an algorithm overrides those that differ. All are pure:
    they return new values, and leave those that they are given as they are.
    """

    uses_optimizer: ClassVar[bool] = True
    """Whether clients call ``Local.train``. If not, a scenario with client modules, regularizers or
    weight decay is refused, since they would have no effect."""

    sends_delta: ClassVar[bool] = True
    """Whether clients send ``Update.delta``, at least in some rounds. If not, a scenario with
    transforms, pre-aggregators or an aggregator other than the mean is refused, since they would
    have no effect."""

    weighted_by: ClassVar[str] = "server.weighting"
    """What clients are weighted by. If it is not this key, but ``uniform``, ``examples`` or what
    else the algorithm does, a scenario with another ``server.weighting`` is refused."""

    ignores: ClassVar[tuple[str, ...]] = ()
    """Keys of the scenario that have no effect, such as ``client.epochs`` where clients take no
    steps. A scenario that changes one is refused."""

    sends_gradients: ClassVar[bool] = False
    """Whether clients send gradients of all of their examples, which ``client.sclip`` does not
    clip, so that it is refused."""

    objective_over: ClassVar[str | None] = None
    """What the objectives that it gives to ``Local`` are means over, besides terms that do not
    depend on the batch. ``loss``: as the scenario's loss, of which they consist. ``examples``: also
    numbers of each example, all of which weigh the same. None: unknown, so that
    ``client.accumulate`` is refused."""

    trains_server: ClassVar[bool] = True
    """Whether the server's weights are trained. If not, runs are ranked by how clients' own models
    do."""

    needs_public: ClassVar[bool] = False
    """Whether the server's half uses public examples (``data.public``)."""

    pools_clients: ClassVar[bool] = False
    """Whether ``ServerSide.public`` are the examples that clients would train on, all together,
    instead of ``data.public``; then clients cannot have ``model.personal`` weights."""

    def check_population(self, size: int) -> None:
        """Check, before the run, that the algorithm works with this number of clients.

        Raises:
            ConfigError: if it cannot.
        """

    def for_model(self, module: nn.Module, shared: Collection[str]) -> Algorithm:
        """Return the algorithm, before the run, with what it has to know of the model.

        Args:
            module: with the initial weights.
            shared: the names of the weights that are trained and sent.

        Raises:
            ConfigError: if it cannot work with the model.
        """
        return self

    # -- the client's side -----------------------------------------------------------------

    def init(self, weights: Vector) -> State:
        """Return what a client keeps before its first round.

        Args:
            weights: of one client, never a stack: what it starts from.
        """
        return {}

    def client(self, local: Local) -> tuple[Update, State]:
        """Do a client's round; return what it sends, and what it keeps."""
        return Update(local.train_delta(local.weights)), {}

    def personal(self, local: Local) -> Vector:
        """Return the weights that a client is evaluated with; names that lack are the server's."""
        return self.evaluated(local.weights, local.received)

    def evaluated(self, weights: Vector, received: State) -> Vector:
        """Return the server's weights as they are evaluated, such as an average over rounds.

        Args:
            weights: the server's; names that lack in what is returned stay as they are in these.
            received: what ``send`` returned.
        """
        return weights

    def outputs(
        self, model: ModelFunction, weights: Vector, received: State, inputs: Inputs
    ) -> Any:
        """Return what is evaluated for some inputs: the model's outputs, or others of their shape.

        Args:
            model: in evaluation mode.
            weights: that are evaluated: the server's, or a client's own.
            received: what ``send`` returned.
            inputs: of B examples; no output may depend on another example.
        """
        return model(weights, inputs)

    # -- the server's side -------------------------------------------------------------------

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return the server's state before the first round.

        Args:
            weights: the initial ones.
            fresh: a number, from 1 -> other initial weights.
        """
        return {}

    def send(self, state: State) -> State:
        """Return the part of the server's state that clients receive (``Local.received``)."""
        return {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return what the server's Optimizer takes for a gradient, and the new state.

        Buffers in it are subtracted from the server's as they are; those that lack follow the mean
        of the clients'.
        """
        return total.delta, state

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep a state of the algorithm: then ``init`` says what is in it."""
        return type(self).init is not Algorithm.init

    @property
    def needs_classes(self) -> bool:
        """Whether outputs must be logits of classes; then a loss of numbers is refused."""
        return False

    @property
    def predicts(self) -> bool:
        """Whether other outputs than the model's are evaluated."""
        return type(self).outputs is not Algorithm.outputs

    @property
    def personalizes(self) -> bool:
        """Whether clients are evaluated with weights of their own."""
        return type(self).personal is not Algorithm.personal


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Train from the server's weights, and send how far that led.

    Source: McMahan et al., 2017, Algorithm 1, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "fedavg"
    takes_read_only: ClassVar[bool] = True
