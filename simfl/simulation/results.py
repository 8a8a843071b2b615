"""Result: what a run has produced."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from simfl.errors import InputError, did_you_mean, import_extra
from simfl.observers import CLIENTS_FILE, Summary
from simfl.record import BEST_FILE
from simfl.simulation.building import Simulation
from simfl.vector import Vector


def module_with(simulation: Simulation, weights: Vector) -> nn.Module:
    """Return a run's model with these weights, in evaluation mode.

    Args:
        simulation: of the run.
        weights: those that the server sends; others keep their initial values.
    """
    model = simulation.server.build_model()
    model.set_weights(model.get_weights() | weights)
    return model.module.eval()


@dataclass(frozen=True)
class Result:
    """What a run has produced."""

    history: list[dict[str, Any]]
    """One dict a round: ``round``, ``seconds`` of wall time, ``train_loss``, and metrics when
    evaluated. The lines of ``metrics.jsonl``."""
    weights: dict[str, np.ndarray[Any, Any]]
    """The final weights by name; bfloat16 as float32, since numpy has no bfloat16."""
    summary: Summary
    """As in ``summary.json``."""
    out: Path
    """The run's folder."""
    simulation: Simulation | None = field(default=None, repr=False, compare=False)
    """What was run, without its examples; None: it is not known."""

    def model(self, *, best: bool = False) -> nn.Module:
        """Return the model with the final weights: a module of torch, in evaluation mode.

        Args:
            best: with those of the best round instead (``output.best``).

        Raises:
            InputError: if the run has kept none of the best round.
        """
        if self.simulation is None:
            raise InputError("this result has no model; load its weights into a module of yours")
        if not best:
            return module_with(self.simulation, Vector.from_numpy(self.weights))
        path = self.out / BEST_FILE
        if not path.exists():
            raise InputError(f"there is no {path}; run with output.best: auto")
        return module_with(self.simulation, Vector(load_file(path)))

    def to_pandas(self) -> Any:
        """Return the history as a ``pandas.DataFrame``, a row for each round.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        pandas = import_extra("pandas", what="Result.to_pandas()", extra="report")
        return pandas.DataFrame(self.history).set_index("round")

    def clients(self) -> Any:
        """Return ``clients.parquet`` as a ``pandas.DataFrame``: a row for each client and round.

        Raises:
            InputError: if the run wrote none (``output.clients: false``).
            MissingExtraError: if pandas is not installed.
        """
        import_extra("pandas", what="Result.clients()", extra="report")
        import pyarrow.parquet as pq

        table = self.out / CLIENTS_FILE
        if not table.exists():
            raise InputError(f"there is no {table}; run with output.clients: true")
        return pq.read_table(table).to_pandas()

    def plot(self, *metrics: str) -> Any:
        """Draw numbers of the history over the rounds; return the axes, of matplotlib.

        ``simfl report`` draws more, and several runs.

        Args:
            metrics: their keys in the history; none: the training loss and all metrics on the test
                split.

        Raises:
            InputError: if no round has a value of one.
            MissingExtraError: if matplotlib is not installed.
        """
        pyplot = import_extra("matplotlib.pyplot", what="Result.plot()", extra="report")
        final = self.summary.get("final", {})
        shown = metrics or tuple(key for key in final if not key.startswith("client_"))
        _, axes = pyplot.subplots(layout="constrained")
        for metric in shown:
            known = [(r["round"], r[metric]) for r in self.history if r.get(metric) is not None]
            if not known:
                raise InputError(f"no round has {metric!r}. {did_you_mean(metric, final)}")
            axes.plot(*zip(*known, strict=True), label=metric)
        axes.set_xlabel("round")
        axes.legend()
        return axes

    def __repr__(self) -> str:
        """Return a summary of the run in one line."""
        status, final = self.summary.get("status"), self.summary.get("final")
        rounds = f"{len(self.history)} round{'s' if len(self.history) != 1 else ''}"
        return f"Result({status}, {rounds}, final={final}, out={str(self.out)!r})"

    def _repr_html_(self) -> str:
        """Return a table of the final numbers, for a notebook."""
        numbers = {k: f"{v:.4g}" for k, v in self.summary.get("final", {}).items() if v is not None}
        status = f"{self.summary.get('status')}, {len(self.history)} rounds"
        rows = {"status": status, **numbers, "folder": str(self.out)}
        cells = (f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table>{''.join(cells)}</table>"
