"""Scenario: all that a run is made of, checked and typed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from annotated_types import MinLen
from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo

from simfl.component import Count
from simfl.data import FederatedDataset
from simfl.errors import ScenarioError
from simfl.scenario.document import Document, parse_path, show
from simfl.scenario.named import fault
from simfl.scenario.plain import to_plain
from simfl.scenario.section import Section
from simfl.scenario.sections import (
    CheckpointSection,
    ClientSection,
    ClusterSection,
    DataSection,
    EvaluationSection,
    ModelSection,
    OutputSection,
    ServerSection,
    SweepSection,
)
from simfl.scenario.trust import Trust, is_untrusted, refusal
from simfl.scenario.yaml_format import dump_yaml

_MAX_NAME: Final = 200
_MAX_LABEL: Final = 60
_FREE: Final = ("name", "label", "rounds", "search", "checkpoint", "output", "sweep")
"""The sections that do not affect a round's results; for ``cluster`` see ``numbers``."""


@dataclass(frozen=True)
class Origin:
    """Where a scenario comes from; two scenarios may be equal whatever their origins are."""

    document: Document = field(default_factory=Document, compare=False)
    """What was read, with the line of each key."""
    trust: Trust = field(default="all", compare=False)
    """Whether it was let run code of its author's."""


def _require_folder_name(name: str) -> str:
    """See that a run's folder lies where it should, and that a terminal shows what it is called."""
    if not name.isprintable() or not 0 < len(name.encode()) <= _MAX_NAME or set(name) & set("/\\"):
        raise fault(
            f"is {show(name)}, which is part of a folder's name; use printable characters but "
            f"'/' and '\\', {_MAX_NAME} bytes at most"
        )
    return name


def _without_code(named: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Refuse modules, and folders of modules, in an untrusted scenario."""
    if named and is_untrusted(info.context):
        raise fault(refusal(f"is {show(named)}"))
    return named


def _require_label(label: str) -> str:
    """Check that a label is a line that fits into a legend."""
    if not label.isprintable() or not 0 < len(label) <= _MAX_LABEL:
        raise fault(f"is {show(label)}; use 1 to {_MAX_LABEL} printable characters")
    return label


class Scenario(Section):
    """All that a run is made of. ``load_scenario`` makes one."""

    name: Annotated[str, AfterValidator(_require_folder_name)] | None = None
    """What the run is called; it is part of its folder's name. null: "run"."""
    label: Annotated[str, AfterValidator(_require_label)] | None = None
    """What reports call the run, and the runs that differ from it only in their seed. null: the
    keys that distinguish it from the others."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """All randomness follows from it."""
    rounds: Count = Field(examples=[100])
    """How many rounds are run."""
    plugins: Annotated[tuple[Annotated[str, MinLen(1)], ...], AfterValidator(_without_code)] = ()
    """Python modules to import, here and in every actor, because they register components."""
    search: Annotated[tuple[str, ...], AfterValidator(_without_code)] = ()
    """The folders in which ``plugins`` and ``python`` paths are looked for, before the usual
    places. Left out: the scenario's own folder and the current one."""
    data: DataSection = Field(examples=[{"source": "digits"}])
    """The examples, and who holds them."""
    model: ModelSection = Field(examples=[{"kind": "mlp"}])
    """The model and the loss."""
    client: ClientSection = Field(examples=[{"optimizer": {"lrate": 0.1}}])
    """The cohort of a round, and the local training."""
    server: ServerSection = ServerSection()
    """The aggregation of updates, and the server's step."""
    evaluation: EvaluationSection = EvaluationSection()
    """The metrics, and how often they are evaluated."""
    cluster: ClusterSection = ClusterSection()
    """The actors, and what each takes of the machine."""
    checkpoint: CheckpointSection = CheckpointSection()
    """The checkpoints, from which a stopped run goes on."""
    output: OutputSection = OutputSection()
    """The folder of a run, and what is in it."""
    sweep: SweepSection | None = None
    """The trials of ``simfl sweep``. null: this is one run."""

    _origin: Origin = PrivateAttr(default_factory=Origin)

    def set_origin(self, origin: Origin) -> None:
        """Say where the scenario comes from; ``load_scenario`` does."""
        self._origin = origin

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
        return self.data.build_dataset(seed=self.seed, client_columns=self.client_columns)

    @property
    def client_columns(self) -> list[str]:
        """The columns of the data by which clients are assigned to groups."""
        selections = [group.clients for group in self.cluster.groups]
        columns = [None if selected == "rest" else selected.column for selected in selections]
        return [column for column in columns if column is not None]

    def with_stacks(self, stacks: Sequence[int]) -> Scenario:
        """Return the scenario with what ``client.stack`` stands for written out, by group."""
        groups = self.cluster.groups
        if not groups:
            client = self.client.model_copy(update={"stack": stacks[0]})
            return self.model_copy(update={"client": client})
        chosen = tuple(
            group.model_copy(update={"stack": stack})
            for group, stack in zip(groups, stacks, strict=True)
        )
        cluster = self.cluster.model_copy(update={"groups": chosen})
        return self.model_copy(update={"cluster": cluster})

    def numbers(self) -> dict[str, Any]:
        """Return, as plain data, everything that affects the results of a round.

        A run can be resumed with other values only for what is not in it. Of ``cluster``, it
        contains the threads and the kind of device, since kernels differ in the order of sums, and
        the clients and stacks of groups, since they determine that order, too.
        """
        plain = self.to_dict()
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

    def fingerprint(self) -> str:
        """Return a hash of ``numbers``."""
        return hashlib.sha256(json.dumps(self.numbers(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, defaults written out, from which an equal scenario loads."""
        plain: dict[str, Any] = to_plain(self)
        if self.sweep is None:
            del plain["sweep"]
        return plain

    def to_yaml(self) -> str:
        """Return ``to_dict`` as YAML."""
        return dump_yaml(self.to_dict())


def _device(actors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a section of actors about the device that clients train on."""
    kind = "more than 0" if actors["num_gpus"] > 0 else 0
    return {"num_gpus": kind, "accelerator_type": actors["accelerator_type"]}
