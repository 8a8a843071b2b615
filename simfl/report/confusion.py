"""The confusion matrices of the last evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simfl.report.charts import HeatMap
from simfl.report.curves import Floats
from simfl.report.study import Group, Study

_MOST_CLASSES = 30
_KEYS = {"confusion": "the test split", "client_confusion": "all clients' examples"}


def confusion_charts(study: Study) -> Iterator[HeatMap]:
    """Draw a matrix for each group that has one, its seeds added up; of many classes none."""
    for index, group in enumerate(study.groups):
        for key, of in _KEYS.items():
            counts_KK = _added(group, key)
            if counts_KK is not None and len(counts_KK) <= _MOST_CLASSES:
                several = len(study.groups) > 1
                name = f"confusion-{index + 1}" if several else "confusion"
                title = f"Confusion, {group.label}" if several else "Confusion"
                yield _drawn(counts_KK, title=title, name=name, of=of)
                break


def _added(group: Group, key: str) -> Floats | None:
    """Return the sum of the runs' matrices, [K, K]; None unless all have one of the same shape."""
    found = [run.matrices.get(key) for run in group.runs]
    known = [np.array(matrix) for matrix in found if matrix is not None]
    is_whole = len(known) == len(found) and len({matrix.shape for matrix in known}) == 1
    if not is_whole or known[0].shape[0] != known[0].shape[1]:
        return None
    total: Floats = np.sum(known, axis=0, dtype=np.float64)
    return total


def _drawn(counts_KK: Floats, *, title: str, name: str, of: str) -> HeatMap:
    """Return the chart: class 0 on top, coloured by the share of each class's examples."""
    sizes_K1 = counts_KK.sum(axis=1, keepdims=True)
    shares_KK = np.divide(
        counts_KK, sizes_K1, out=np.full_like(counts_KK, np.nan), where=sizes_K1 > 0
    )
    classes = tuple(map(str, range(len(counts_KK))))
    return HeatMap(
        title=title,
        x="predicted class",
        y="class",
        columns=classes,
        rows=classes[::-1],
        values=shares_KK[::-1],
        texts=tuple(tuple(f"{count:g}" for count in row) for row in counts_KK[::-1]),
        note=f"Examples of {of} in the last evaluation; coloured by their share of the class.",
        name=name,
    )
