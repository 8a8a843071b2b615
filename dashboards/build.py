"""Writes Grafana's dashboards: ``python -m dashboards.build``, in the project's folder.

The files are under version control, since Grafana reads them.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.actors import actors
from dashboards.fleet import fleet
from dashboards.one_run import one_run
from dashboards.panels import finish

FOLDER = Path(__file__).parent / "grafana"


def main(folder: Path = FOLDER) -> None:
    """Write the dashboards into a folder."""
    for name, build in {"run": one_run, "actors": actors, "fleet": fleet}.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(finish(build()))
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
