"""Which components there are, by kind, and what their docstrings and fields' literals say."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Hashable
from functools import cache
from typing import cast

from simfl.aggregation import Aggregator, PreAggregator
from simfl.algorithms import Algorithm
from simfl.component import Component, Section
from simfl.data import Augmentation, Partition, Source
from simfl.models import Loss, Metric, ModelSpec
from simfl.observers import Observer
from simfl.optimizer import OptiModule, Regularizer, Schedule
from simfl.sampling import Sampler, Work
from simfl.transforms import UpdateTransform

_ROOTS: tuple[type[Component], ...] = (
    Source,
    Partition,
    Augmentation,
    ModelSpec,
    Loss,
    Metric,
    Algorithm,
    OptiModule,
    Regularizer,
    Schedule,
    UpdateTransform,
    Aggregator,
    PreAggregator,
    Sampler,
    Work,
    Observer,
)


def component_kinds() -> dict[str, type[Component]]:
    """Return ``{"source": Source, "partition": Partition, ...}`` in the order of a scenario."""
    return {root.registry.what: root for root in _ROOTS}


def summary(cls: type[Component | Section]) -> str:
    """Return the first paragraph of the docstring on one line, "" if there is none."""
    return " ".join(full_doc(cls).partition("\n\n")[0].split())


def full_doc(cls: type[Component | Section]) -> str:
    """Return the class's own docstring, without its indent; "" if there is none."""
    # A dataclass without a docstring is given its signature for one.
    doc = cls.__doc__ or ""
    return "" if doc.startswith(f"{cls.__name__}(") else markdown(inspect.cleandoc(doc))


def markdown(text: str) -> str:
    """Turn the double backticks of a docstring into single ones."""
    return text.replace("``", "`")


def field_docs(cls: type[Component | Section]) -> dict[str, str]:
    """Return ``{field: the literal that stands beneath it}``, of the class and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Component | Section) and base not in (Component, Section):
            docs |= _docs_in_source(cast(Hashable, base))  # mypy has doubts of classes
    return docs


@cache
def _docs_in_source(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # written in a notebook or a shell
        return {}
    definition = ast.parse(source).body[0]
    if not isinstance(definition, ast.ClassDef):
        return {}
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = _literal(following)
            if text is not None:
                docs[statement.target.id] = markdown(" ".join(text.split()))
    return docs


def _literal(statement: ast.stmt) -> str | None:
    value = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return None
