"""Numbers over seeds as LaTeX tables, for the package ``booktabs``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from simfl.errors import InputError, did_you_mean
from simfl.report.bands import BandKind, mean_and_edges
from simfl.report.charts import Table
from simfl.report.judging import best, metric_keys
from simfl.report.over_seeds import final_keys, finals, paired_table, target_table
from simfl.report.study import Study
from simfl.report.wording import title_of

_MAX_DECIMALS = 6
_DECIMALS = 4
"""Of numbers without a band."""
_ESCAPED = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "—": "---",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
}
_MINUS = re.compile(r"(?<![^\s(])-(?=[\d\s])")
"""A hyphen that is a sign or an operator."""


def latex(study: Study, metrics: Sequence[str] = ()) -> str:
    r"""Return the final numbers, what the target took, and paired tests, each as a table.

    They need ``\usepackage{booktabs}``, and hold no dates.

    Args:
        study: the runs.
        metrics: the columns of the first table. Empty: all metrics.

    Raises:
        InputError: if no run has one of the metrics, or no run has any.
    """
    known = metric_keys(study.runs)
    for metric in metrics:
        if metric not in known:
            raise InputError(f"no run has a metric {metric!r}. {did_you_mean(metric, known)}")
    keys = list(metrics) or final_keys(known)
    if not keys:
        raise InputError("no run has a metric; finish a round of one, or take --format html")
    # Captions say what a target is, and not how another one is chosen.
    own = replace(study, is_target_chosen=False)
    lines = ["% Needs \\usepackage{booktabs}.", *_final(study, keys)]
    if study.target is not None:
        lines += ["", *_plain(target_table(own, study.target), label="target")]
    if (tests := paired_table(study)) is not None:
        lines += ["", *_plain(tests, label="tests")]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""Return text as LaTeX shows it literally.

    >>> print(escaped("lr_0 = 50 %, p < 0.1"))
    lr\_0 = 50 \%, p $<$ 0.1
    """
    shown = "".join(_ESCAPED.get(letter, letter) for letter in " ".join(text.split()))
    return _MINUS.sub("$-$", shown)


def _final(study: Study, keys: Sequence[str]) -> Iterator[str]:
    columns = [_column(study, key) for key in keys]
    rows = zip(study.groups, zip(*columns, strict=True), strict=True)
    seeds = sorted({len(group.runs) for group in study.groups})
    over = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    words = study.view.in_words.replace("over seeds", f"over {over}")
    caption = f"Final numbers{f': {words}' if seeds[-1] > 1 else ''}."
    if len(study.groups) > 1:
        caption += " Bold: the best mean."
    yield from _table(
        header=["", *map(title_of, keys)],
        rows=[[escaped(group.label), *cells] for group, cells in rows],
        caption=caption,
        label="final",
    )


def _column(study: Study, key: str) -> list[str]:
    """Return a metric's cell of each group, the best mean in bold."""
    values = [[v for v in finals(group, key) if math.isfinite(v)] for group in study.groups]
    bands = [mean_and_edges(v, study.view.in_tables) if v else None for v in values]
    decimals = _decimals([high - mean for mean, _, high in filter(None, bands)])
    # A mean over some seeds is no rival, since those without a value may be the bad ones.
    whole = {
        index: band[0]
        for index, (group, found, band) in enumerate(zip(study.groups, values, bands, strict=True))
        if band is not None and len(found) == len(group.runs)
    }
    top = best(key, whole.values(), study.runs) if len(study.groups) > 1 else None
    return [
        _cell(band, study.view.in_tables, decimals, is_best=top is not None and whole.get(n) == top)
        for n, band in enumerate(bands)
    ]


def _cell(
    band: tuple[float, float, float] | None, kind: BandKind, decimals: int, *, is_best: bool
) -> str:
    if band is None:
        return "---"
    mean, low, high = (f"{value:.{decimals}f}" for value in band)
    shown = rf"\mathbf{{{mean}}}" if is_best else mean
    if math.isnan(band[1]):
        return f"${shown}$"
    if kind == "range":
        return f"${shown}$ (${low}$ to ${high}$)"
    return rf"${shown} \pm {band[2] - band[0]:.{decimals}f}$"


def _decimals(halves: Sequence[float]) -> int:
    """Return the decimals that leave the narrowest band a digit, and the widest one two.

    >>> _decimals([0.12, 0.0043]), _decimals([0.12]), _decimals([12.0]), _decimals([])
    (3, 2, 0, 4)
    """
    found = [half for half in halves if half > 0 and math.isfinite(half)]
    if not found:
        return _DECIMALS
    narrowest, widest = -math.floor(math.log10(min(found))), 1 - math.floor(math.log10(max(found)))
    return min(_MAX_DECIMALS, max(0, narrowest, widest))


def _plain(table: Table, *, label: str) -> Iterator[str]:
    caption = f"{table.title}. {table.note}".strip()
    rows = [list(map(escaped, row)) for row in table.rows]
    yield from _table(header=table.header, rows=rows, caption=caption, label=label)


def _table(
    *, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str
) -> Iterator[str]:
    """Yield the lines of a table whose rows are LaTeX; header and caption are escaped."""
    yield r"\begin{table}"
    yield r"  \centering"
    yield rf"  \caption{{{escaped(caption)}}}"
    yield rf"  \label{{tab:{label}}}"
    yield rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    yield r"    \toprule"
    yield rf"    {' & '.join(map(escaped, header))} \\"
    yield r"    \midrule"
    yield from (rf"    {' & '.join(row)} \\" for row in rows)
    yield r"    \bottomrule"
    yield r"  \end{tabular}"
    yield r"\end{table}"
