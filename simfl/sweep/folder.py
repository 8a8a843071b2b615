"""The folder of a sweep: made once, and never for two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simfl.errors import InputError
from simfl.observers import write_whole
from simfl.scenario.document import Document
from simfl.scenario.sweeps import SweepPlan
from simfl.scenario.yaml_format import dump_yaml
from simfl.sweep.ledger import LEDGER_FILE

SWEEP_FILE = "sweep.yaml"
"""The scenario with its sweep, every override in it."""


def require_no_sweep(folder: Path) -> None:
    """Raise an error if the folder holds a sweep.

    Raises:
        InputError: with the file that says so.
    """
    for name in (SWEEP_FILE, LEDGER_FILE):
        if (folder / name).exists():
            raise InputError(
                f"{folder} holds a sweep already ({name}); choose another folder, "
                f"or go on with: simfl sweep --resume {folder}"
            )


def make_sweep_folder(folder: Path, plan: SweepPlan) -> Path:
    """Write the scenario into the folder, which nobody else writes to.

    Raises:
        InputError: if it holds a sweep, or cannot be written.
    """
    require_no_sweep(folder)
    try:
        write_whole(folder / SWEEP_FILE, dump_yaml(_values(plan.document)))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another") from None
    return folder


def _values(document: Document) -> dict[Any, Any]:
    """Return a scenario's values, its sweep last."""
    values = {key: value for key, value in document.values.items() if key != "sweep"}
    return values | {"sweep": document.values["sweep"]}
