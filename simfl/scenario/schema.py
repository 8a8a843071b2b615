"""Scenario: all that a run is made of, checked and typed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

from annotated_types import Gt, MinLen
from pydantic import AfterValidator

from simfl.algorithms import Algorithm, FedAvg
from simfl.component import Count, NonNegative, Section, field_types, optional, required
from simfl.data import FederatedDataset
from simfl.errors import ScenarioError
from simfl.models import BCEWithLogits, CrossEntropy
from simfl.record import evaluations
from simfl.scenario.document import Document, parse_path
from simfl.scenario.plain import to_plain
from simfl.scenario.space import checked_searcher, checked_seeds, checked_values
from simfl.scenario.validators import Trust, check_label, folder_name, trusted_modules
from simfl.scenario.yaml_format import dump_yaml
from simfl.sections import (
    CheckpointSection,
    ClientSection,
    ClusterSection,
    DataSection,
    EvaluationSection,
    ModelSection,
    OutputSection,
    Seed,
    ServerSection,
    Whole,
)

_FREE: Final = ("name", "label", "rounds", "search", "checkpoint", "output", "stop", "sweep")
"""The sections that do not affect a round's results; for ``cluster`` see ``numbers``."""

_LATER: Final = (
    "algorithm",
    "algorithm.work",
    "data.public",
    "data.client_tests",
    "data.augment",
    *(
        f"data.{of}.{name}"
        for of in ("source", "public")
        for name in ("revision", "choices", "numbers", "categories", "encode", "missing")
    ),
    "model.personal",
    "model.fixed",
    "client.transforms",
    "client.accumulate",
    "client.sampler.loss",
    "server.pre_aggregators",
    "evaluation.train_loss",
    "evaluation.personal_steps",
    "evaluation.new_clients",
)
"""The keys that earlier versions did not have, such as ``client.epochs``, of sections and of some
components. Their defaults are not in
``numbers``, so that runs of those versions can be resumed."""

_LATER_OF_LOSSES: Final[Mapping[str, Mapping[str, Any]]] = {
    CrossEntropy.name: {"over": CrossEntropy.over, "weight": CrossEntropy.weight},
    BCEWithLogits.name: {"pos_weight": BCEWithLogits.pos_weight},
}
"""The same of losses: their defaults by field."""


@dataclass(frozen=True)
class Origin:
    """Where a scenario comes from; two scenarios may be equal whatever their origins are."""

    document: Document = field(default_factory=Document, compare=False)
    """What was read, with the line of each key."""
    trust: Trust = field(default="all", compare=False)
    """Whether it was let run code of its author's."""


@dataclass(frozen=True, kw_only=True)
class AshaSection(Section):
    """Early stopping by ASHA (Li et al., 2020, https://arxiv.org/abs/1810.05934).

    After ``grace_rounds``, and after ``factor``, ``factor`` squared... times as many, a trial is
    stopped unless it is among the best ``1 / factor`` of those that have reached that round.
    """

    grace_rounds: Count = 1
    """The minimum number of rounds of every trial."""
    factor: Annotated[float, Gt(1)] = 4.0
    """Each time, one in this many trials continues."""


@dataclass(frozen=True, kw_only=True)
class StopSection(Section):
    """When a run ends before its last round: by ``patience``, ``target`` or both."""

    metric: str | None = None
    """The metric of ``metrics.jsonl`` that decides, such as ``accuracy`` or
    ``client_personal_loss``. null: the one by which runs are ranked."""
    patience: Count | None = None
    """The run ends when the metric has been measured so many times in a row without being better
    than its best value. null: it never does."""
    min_delta: NonNegative = 0.0
    """By how much a value must be better to count as such."""
    target: float | None = None
    """The run ends when the metric has this value or a better one. null: it never does."""


@dataclass(frozen=True, kw_only=True)
class SweepSection(Section):
    """Trials: runs of this scenario with other values in some of its keys (``simfl sweep``)."""

    cases: dict[str, dict[str, Any]] = optional(
        dict, example={"plain": {}, "momentum": {"client.optimizer.modules": ["momentum"]}}
    )
    """What is tried together: values by key, under the ``label`` that trials with these get. Each
    case is combined with all of ``over``."""
    over: dict[str, Annotated[Any, AfterValidator(checked_values)]] = optional(
        dict, example={"client.optimizer.lrate": [0.01, 0.1]}
    )
    """What is tried, by key: a list, whole numbers as ``0..4``, or a draw by chance:
    ``{uniform: [0, 1]}``, ``{loguniform: [0.001, 1]}``, ``{integers: [1, 9]}`` or
    ``{choice: [a, b]}``, bounds included. All combinations of what lists hold are tried."""
    seeds: Annotated[Any, AfterValidator(checked_seeds)] = None
    """The scenario's seeds with which all values are repeated, such as ``0..4``. Values are judged
    by the mean over them, by a searcher, too, and draws are the same for all. null: values are
    repeated only if ``over`` has ``seed``."""
    baselines: tuple[Literal["centralized", "local"], ...] = ()
    """What is run besides: baselines of the scenario without its cases, with each value of ``over``
    and each seed that makes a difference to them. Their ``label`` says which they are."""
    samples: Count = 1
    """How often each combination is tried, with other draws; with a searcher, the number of
    its proposals."""
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


@dataclass(frozen=True, kw_only=True)
class Scenario(Section):
    """All that a run is made of. ``load_scenario`` makes one."""

    name: Annotated[str, AfterValidator(folder_name)] | None = None
    """What the run is called; it is part of its folder's name. null: "run"."""
    label: Annotated[str, AfterValidator(check_label)] | None = None
    """What reports call the run, and the runs that differ from it only in their seed. null: the
    keys that distinguish it from the others."""
    seed: Seed = 0
    """All randomness follows from it."""
    rounds: Count = required(example=100)
    """The number of rounds."""
    plugins: Annotated[tuple[Annotated[str, MinLen(1)], ...], AfterValidator(trusted_modules)] = ()
    """Python modules to import, here and in every actor, because they register components."""
    search: Annotated[tuple[str, ...], AfterValidator(trusted_modules)] = ()
    """The folders in which ``plugins`` and ``python`` paths are looked for, before the usual
    places. Default: the scenario's own folder and the current one."""
    data: DataSection = required(example={"source": "digits"})
    """The examples, and who holds them."""
    model: ModelSection = required(example={"kind": "mlp"})
    """The model and the loss."""
    algorithm: Algorithm = FedAvg()
    """What clients do in a round, and what the server makes of it."""
    client: ClientSection = required(example={"optimizer": {"lrate": 0.1}})
    """The cohort of a round, and the local training."""
    server: ServerSection = ServerSection()
    """The aggregation of updates, and the server's step."""
    evaluation: EvaluationSection = EvaluationSection()
    """The metrics, and how often they are evaluated."""
    cluster: ClusterSection = ClusterSection()
    """The actors, and what each takes of the machine."""
    checkpoint: CheckpointSection = CheckpointSection()
    """The checkpoints, from which a stopped run is resumed."""
    output: OutputSection = OutputSection()
    """The folder of a run, and what is in it."""
    stop: StopSection | None = None
    """Early stopping. null: all rounds are run."""
    sweep: SweepSection | None = None
    """The trials of ``simfl sweep``. null: this is one run."""

    _origin: Origin = field(default=Origin(), compare=False, repr=False)

    @property
    def trust(self) -> Trust:
        """Whether the scenario was let run code of its author's."""
        return self._origin.trust

    def fault(self, key: str, message: str) -> ScenarioError:
        """Make the error for what only shows later, with the place of the key.

        Args:
            key: the dotted path, ``client.per_round`` or ``client.optimizer.modules[1]``.
            message: the rest of the line: ``is 200, but the partition made 100 clients; ...``.
        """
        return ScenarioError([self._origin.document.fault_line(parse_path(key), message)])

    def build_dataset(self) -> FederatedDataset:
        """Load the examples and split them over clients; errors are as ``simfl.data``'s."""
        return self.data.build_dataset(
            seed=self.seed, client_columns=self.client_columns, model=self.model.spec
        )

    @property
    def client_columns(self) -> list[str]:
        """The columns of the data by which clients are selected."""
        selections = [group.clients for group in self.cluster.groups]
        chosen = [one for one in (*selections, self.evaluation.new_clients) if one != "rest"]
        columns = [one.column for one in chosen if one is not None]
        return [column for column in dict.fromkeys(columns) if column is not None]

    @property
    def evaluations(self) -> tuple[tuple[str, bool], ...]:
        """Which models are evaluated on which clients, as ``simfl.record.evaluations`` says."""
        return evaluations(
            personalizes=self.algorithm.personalizes or bool(self.model.personal),
            personal_steps=self.evaluation.personal_steps,
            has_new=self.evaluation.new_clients is not None,
        )

    def with_stacks(self, stacks: Sequence[int]) -> Scenario:
        """Return the scenario with what ``client.stack`` stands for written out, by group."""
        groups = self.cluster.groups
        if not groups:
            return replace(self, client=replace(self.client, stack=stacks[0]))
        pairs = zip(groups, stacks, strict=True)
        chosen = tuple(replace(group, stack=stack) for group, stack in pairs)
        return replace(self, cluster=replace(self.cluster, groups=chosen))

    def numbers(self) -> dict[str, Any]:
        """Return, as plain data, everything that affects the results of a round.

        A run can be resumed with other values only for what is not in it. Of ``cluster``, it
        contains the threads and the kind of device, since kernels differ in the order of sums, and
        the clients and stacks of groups, since they determine that order, too.
        """
        plain = self.to_dict()
        for key in _LATER:
            self._remove_default(key, plain)
        _remove_later_fields(plain["model"]["loss"])
        cluster = plain["cluster"]
        kept = {"threads": cluster["threads"], "deterministic": cluster["deterministic"]}
        if cluster["groups"]:
            own = ("clients", "stack")
            kept["groups"] = [
                {key: group[key] for key in own} | _device(group) for group in cluster["groups"]
            ]
        else:
            kept |= _device(cluster)
        return {key: plain[key] for key in plain if key not in _FREE} | {"cluster": kept}

    def _remove_default(self, key: str, plain: dict[str, Any]) -> None:
        """Remove a key of the scenario, of a section or of simfl's component, at its default."""
        *path, name = key.split(".")
        owner: Any = self
        for step in path:
            owner, found = getattr(owner, step), plain.get(step)
            plain = found if isinstance(found, dict) else plain  # a flat field's keys are there
        if not type(owner).__module__.startswith("simfl."):
            return
        fields = field_types(type(owner))
        if name in fields and getattr(owner, name) == fields[name][1]:
            del plain[name]

    def fingerprint(self) -> str:
        """Return a hash of ``numbers``."""
        return hashlib.sha256(json.dumps(self.numbers(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, defaults written out, from which an equal scenario loads."""
        plain: dict[str, Any] = to_plain(self)
        for key in ("stop", "sweep"):
            if getattr(self, key) is None:
                del plain[key]
        return plain

    def to_yaml(self) -> str:
        """Return ``to_dict`` as YAML."""
        return dump_yaml(self.to_dict())


def _remove_later_fields(loss: dict[str, Any]) -> None:
    """Remove fields that losses of earlier versions did not have, if they have their defaults."""
    for name, value in _LATER_OF_LOSSES.get(loss.get("kind", ""), {}).items():
        if loss[name] == value:
            del loss[name]
    if isinstance(loss.get("of"), dict):
        _remove_later_fields(loss["of"])


def _device(actors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a section of actors about the device that clients train on."""
    kind = "more than 0" if actors["num_gpus"] > 0 else 0
    return {"num_gpus": kind, "accelerator_type": actors["accelerator_type"]}
