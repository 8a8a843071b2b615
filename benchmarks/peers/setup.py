"""Make the environments of other frameworks, each with the packages that it wants.

python benchmarks/peers/setup.py            # all
python benchmarks/peers/setup.py pfl
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent / ".venv"
PACKAGES = {
    "pfl": ["torch==2.13.0", "pfl==0.6.0"],
    "flwr": ["torch==2.13.0", "flwr[simulation]==1.42.0"],
    # The last jax with all that FedJAX's last release calls, and what goes with it.
    "fedjax": [
        "fedjax==0.0.17",
        "jax==0.4.30",
        "jaxlib==0.4.30",
        "dm-haiku==0.0.12",
        "optax==0.2.3",
        "numpy==1.26.4",
    ],
}
"""torch is the version that simfl was tested with; Flower brings its own version of Ray."""


def set_up(name: str) -> None:
    """Make one environment, or bring it up to date."""
    folder = ENVIRONMENTS / name
    if not folder.exists():
        venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
    print(f"{name}: {python}")


def main() -> None:
    """Set up what is named, or all."""
    for name in sys.argv[1:] or PACKAGES:
        if name not in PACKAGES:
            raise SystemExit(f"there is no {name!r}; choose from {', '.join(PACKAGES)}")
        set_up(name)


if __name__ == "__main__":
    main()
