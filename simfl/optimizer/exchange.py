"""AuxExchange: carries auxiliary variables to and from the modules of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from simfl.errors import ConfigError, did_you_mean
from simfl.optimizer.plugin import AuxVar, OptiModule, Regularizer, State
from simfl.vector import Vector


class AuxExchange:
    """Carries auxiliary variables, by aux name, to and from a list of modules.

    Raises:
        ConfigError: if two modules have one aux name.
    """

    def __init__(self, modules: Sequence[OptiModule]) -> None:
        self._modules = modules
        self._indices: dict[str, int] = {}
        for index, module in enumerate(modules):
            if has_aux(module):
                self._add(module, index)

    @property
    def names(self) -> frozenset[str]:
        """The aux names."""
        return frozenset(self._indices)

    def collect(self, states: Sequence[State]) -> dict[str, AuxVar]:
        """Return what each module shares, if it shares anything."""
        collected = {
            name: self._modules[index].collect_aux_var(states[index])
            for name, index in self._indices.items()
        }
        return {name: aux for name, aux in collected.items() if aux is not None}

    def process(self, states: Sequence[State], aux: Mapping[str, AuxVar]) -> tuple[State, ...]:
        """Return the states after each module has been handed its variables.

        Raises:
            KeyError: where a name has no module, or an entry is missing.
        """
        new = list(states)
        for name, variables in aux.items():
            index = self._index(name)
            new[index] = self._modules[index].process_aux_var(new[index], variables)
        return tuple(new)

    def merge(self, left: Mapping[str, AuxVar], right: Mapping[str, AuxVar]) -> dict[str, AuxVar]:
        """Merge by each module's own rule; what one side only has stays as it is.

        Raises:
            KeyError: where a name that both have has no module.
        """
        merged = {**left, **right}
        for name in left:
            if name in right:
                module = self._modules[self._index(name)]
                merged[name] = _merge(module, left[name], right[name])
        return merged

    def merge_rows(self, aux: Mapping[str, AuxVar], rows: Sequence[int]) -> dict[str, AuxVar]:
        """Merge what some clients of a stack share, by each module's own rule.

        Args:
            aux: variables of a stack: a row for each client, or one value that each has.
            rows: whose are merged, in order.
        """
        if not rows:
            return {}
        return {name: self._merged(name, variables, rows) for name, variables in aux.items()}

    def _merged(self, name: str, variables: AuxVar, rows: Sequence[int]) -> AuxVar:
        module = self._modules[self._index(name)]
        if type(module).merge_aux is OptiModule.merge_aux:
            return {key: _sum_rows(value, rows) for key, value in variables.items()}
        each = ({key: _row(value, row) for key, value in variables.items()} for row in rows)
        return reduce(module.merge_aux, each)

    def _add(self, module: OptiModule, index: int) -> None:
        name = module.aux_name or module.name
        if name in self._indices:
            other = self._indices[name]
            raise ConfigError(
                f"modules[{index}]: {module.name!r} has the auxiliary variables {name!r}, and "
                f"so has {self._modules[other].name!r}, modules[{other}]; keep one of them"
            )
        self._indices[name] = index

    def _index(self, name: str) -> int:
        if name not in self._indices:
            hint = did_you_mean(name, self._indices)
            raise KeyError(f"no module takes the auxiliary variables {name!r}. {hint}".rstrip())
        return self._indices[name]


def _merge(module: OptiModule, left: AuxVar, right: AuxVar) -> AuxVar:
    adds_up = type(module).merge_aux is OptiModule.merge_aux and left.keys() == right.keys()
    if not (adds_up and vars(type(module)).get("owns_aux")):
        return module.merge_aux(left, right)
    return {key: _added(value, right[key]) for key, value in left.items()}


def _added(left: Any, right: Any) -> Any:
    in_place = isinstance(left, Vector) and not left.read_only
    return left.add_(right) if in_place else left + right


def _sum_rows(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value[list(rows)].sum().item() if value.dim() else value.item() * len(rows)
    if isinstance(value, Vector) and value.stacked:
        chosen = value if len(rows) == value.num_clients else value.rows(torch.tensor(rows))
        return Vector({name: tensor.sum(dim=0) for name, tensor in chosen.items()})
    return value * len(rows)


def _row(value: Any, row: int) -> Any:
    if isinstance(value, Tensor):
        return value[row].item() if value.dim() else value.item()
    if isinstance(value, Vector) and value.stacked:
        # A copy, as merging may reuse the memory.
        return Vector({name: tensor[row].clone() for name, tensor in value.items()})
    return value


def has_aux(plugin: OptiModule | Regularizer) -> bool:
    """Return whether a plug-in exchanges auxiliary variables."""
    cls = type(plugin)
    return issubclass(cls, OptiModule) and (
        cls.collect_aux_var is not OptiModule.collect_aux_var
        or cls.process_aux_var is not OptiModule.process_aux_var
    )
