"""``simfl resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.options import Trust, Trusted
from simfl.cli.run_scenario import Backend
from simfl.cli.tables import say


@exit_codes()
def resume_run(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    backend: Annotated[
        Backend, typer.Option(help="Actors on Ray, or all in this process. Same numbers.")
    ] = Backend.ray,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, instead of cluster.address.")
    ] = None,
    trust: Trusted = Trust.all,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run's folder only.")] = False,
) -> None:
    """Go on with a run that was stopped, from its last checkpoint.

    The numbers are those of a run that was never stopped.
    """
    from simfl.simulation import resume

    result = resume(
        folder, backend=backend.value, address=address, progress=not quiet, trust=trust.value
    )
    if quiet:
        say(result.out, is_exact=True)
