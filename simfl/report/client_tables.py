"""The tables of clients, aggregated one row group at a time, as they may be large.

Shapes: C clients that took part, A actors, M clients that were evaluated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from simfl.record import (
    CLIENTS_FILE,
    EVALUATION_KEYS,
    EVALUATIONS_FILE,
    GLOBAL,
    evaluated_as,
    evaluations,
)
from simfl.regular_files import open_regular
from simfl.report.curves import Floats

_COLUMNS: Final = ("client", "actor", "seconds", "dropped")
_SUMMED: Final = {"client": "count", "actor": "seconds"}
"""What is summed for each value of a column; ``count`` is 1 in every row."""
_EVALUATIONS: Final = evaluations(personalizes=True, personal_steps=1, has_new=True)
_EVALUATED: Final = "evaluated as"
"""A column of indexes of ``_EVALUATIONS``."""


@dataclass(frozen=True)
class Dropped:
    """Updates that were dropped for one reason."""

    why: str
    updates: int
    clients: tuple[int, ...]
    """The clients that sent them, ascending."""


@dataclass(frozen=True)
class ClientHistory:
    """Which clients took part in a run, where they were trained, and what was dropped."""

    times: Floats
    """[C] the number of rounds that each client took part in, without zeros; ascending."""
    actors: tuple[str, ...]
    """[A] their names."""
    busy_s: Floats
    """[A] the seconds that each actor spent training clients."""
    dropped: tuple[Dropped, ...] = ()
    """By reason, the most frequent first."""


@dataclass(frozen=True)
class Evaluation:
    """One metric of each client's own evaluation after one round."""

    round: int
    values: Floats
    """[M] ascending."""


def read_client_history(folder: Path, faults: list[str]) -> ClientHistory | None:
    """Aggregate ``clients.parquet``; None, and a line in ``faults``, if it cannot be read.

    Args:
        folder: the run's.
        faults: a line is appended for each missing or damaged file.
    """
    parts: dict[str, list[Any]] = {key: [] for key in _SUMMED}
    dropped: Counter[tuple[str, int]] = Counter()

    def fold(table: Any) -> None:
        sums = {key: _sums(table, key) for key in _SUMMED}
        dropped.update(_dropped_updates(table))
        for key, part in sums.items():
            parts[key].append(part)

    _for_each_row_group(folder / CLIENTS_FILE, _COLUMNS, faults, fold)
    if not parts["client"]:
        return None
    _, times_C = _total(parts["client"], "client")
    actors, busy_s_A = _total(parts["actor"], "actor")
    # client-2 before client-10.
    order = sorted(range(len(actors)), key=lambda index: (len(actors[index]), actors[index]))
    return ClientHistory(
        np.sort(times_C),
        tuple(str(actors[index]) for index in order),
        busy_s_A[order],
        _by_reason(dropped),
    )


def read_evaluations(folder: Path, faults: list[str]) -> dict[str, list[Evaluation]]:
    """Return each metric's evaluations by round; empty if clients were not evaluated.

    The metrics are called as over clients: ``accuracy``, ``personal_accuracy``, ``new_accuracy``.

    Args:
        folder: the run's.
        faults: a line is appended for each damaged file.
    """
    path = folder / EVALUATIONS_FILE
    parts: list[dict[str, Floats]] = []
    if path.exists():
        _for_each_row_group(
            path, None, faults, lambda table: parts.append(_evaluation_columns(table))
        )
    names = [
        name for name in (parts[0] if parts else ()) if name not in (*EVALUATION_KEYS, _EVALUATED)
    ]
    wanted = ["round", _EVALUATED, *names]
    parts = [part for part in parts if part.keys() >= set(wanted)]
    if not parts:
        return {}
    whole = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
    found: dict[str, list[Evaluation]] = {}
    for number, (model, is_new) in enumerate(_EVALUATIONS):
        rows = whole[_EVALUATED] == number
        for name in names if rows.any() else ():
            key = evaluated_as(name, model, is_new)
            found[key] = _by_round(whole["round"][rows], whole[name][rows])
    return found


def _by_round(rounds: Floats, values: Floats) -> list[Evaluation]:
    is_number = np.isfinite(values) & np.isfinite(rounds)
    rounds, values = rounds[is_number], values[is_number]
    order = np.lexsort((values, rounds))
    found, starts = np.unique(rounds[order], return_index=True)
    parts = np.split(values[order], starts[1:])
    return [Evaluation(int(round), part) for round, part in zip(found, parts, strict=False)]


def _for_each_row_group(
    path: Path,
    columns: Sequence[str] | None,
    faults: list[str],
    fold: Callable[[Any], None],
) -> None:
    """Call ``fold`` with each readable row group of a file, or of the files in a folder."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not files:
        faults.append(f"{path.name} is missing: nothing is known about single clients")
        return
    try:
        import pyarrow as arrow
    except ImportError:
        faults.append(f"{path.name} is not read: pyarrow is not installed")
        return
    damaged = 0
    for file in files:
        try:
            _fold_file(file, columns, fold)
        # Truncated files, and columns that are missing or of another type.
        except (arrow.ArrowException, OSError, ValueError, KeyError):
            damaged += 1
    if damaged:
        faults.append(f"{path.name}: {damaged} of {len(files)} files are damaged, and skipped")


def _fold_file(file: Path, columns: Sequence[str] | None, fold: Callable[[Any], None]) -> None:
    from pyarrow.parquet import ParquetFile

    with open_regular(file) as raw, ParquetFile(raw) as opened:
        names = opened.schema_arrow.names
        wanted = [name for name in columns or names if name in names]
        for group in range(opened.num_row_groups):
            fold(opened.read_row_group(group, columns=wanted))


def _sums(table: Any, key: str) -> Any:
    """Sum a column by the values of a key."""
    import pyarrow as arrow

    keys = table[key].cast(arrow.string() if key == "actor" else arrow.int64())
    name = _SUMMED[key]
    values = np.ones(len(table)) if name == "count" else np.nan_to_num(_numbers(table[name]))
    return _grouped(arrow.table({key: keys, "sum": values}), key)


def _dropped_updates(table: Any) -> list[tuple[str, int]]:
    """Return reason and client of each dropped update; early versions wrote no reasons."""
    if "dropped" not in table.column_names:
        return []
    rows = table.select(["dropped", "client"]).drop_null().to_pydict()
    return [(str(why), int(c)) for why, c in zip(rows["dropped"], rows["client"], strict=True)]


def _by_reason(dropped: Counter[tuple[str, int]]) -> tuple[Dropped, ...]:
    clients: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for (why, client), updates in dropped.items():
        clients[why][client] = updates
    found = [Dropped(why, of.total(), tuple(sorted(of))) for why, of in clients.items()]
    return tuple(sorted(found, key=lambda one: (-one.updates, one.why)))


def _grouped(table: Any, key: str) -> Any:
    return table.group_by(key).aggregate([("sum", "sum")]).rename_columns([key, "sum"])


def _total(parts: Sequence[Any], key: str) -> tuple[Any, Floats]:
    """Sum over row groups; return the keys, ascending, and their sums."""
    import pyarrow as arrow

    total = _grouped(arrow.concat_tables(parts), key).sort_by(key)
    return total[key].to_numpy(), total["sum"].to_numpy()


def _evaluation_columns(table: Any) -> dict[str, Floats]:
    """Return the columns of numbers, and which of the evaluations each row is of."""
    import pyarrow as arrow

    columns = {
        name: _numbers(table[name])
        for name in table.column_names
        if name not in ("model", "new") and not arrow.types.is_nested(table[name].type)
    }
    size = len(table)
    models = table["model"].to_pylist() if "model" in table.column_names else [GLOBAL] * size
    is_new = table["new"].to_pylist() if "new" in table.column_names else [False] * size
    number_of = {evaluation: number for number, evaluation in enumerate(_EVALUATIONS)}
    numbers = [number_of.get(of, -1) for of in zip(models, is_new, strict=True)]
    return columns | {_EVALUATED: np.array(numbers, dtype=np.float64)}


def _numbers(column: Any) -> Floats:
    import pyarrow as arrow

    numbers: Floats = column.cast(arrow.float64(), safe=False).to_numpy()
    return numbers
