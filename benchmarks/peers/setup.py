"""Make the environments of other frameworks, each with the packages that it wants.

python benchmarks/peers/setup.py            # all
python benchmarks/peers/setup.py pfl
python benchmarks/peers/setup.py --here pfl     # with this Python's torch, such as a build for CUDA
"""

from __future__ import annotations

import importlib.util
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


def set_up(name: str, *, here: bool = False) -> None:
    """Make one environment, or bring it up to date.

    Args:
        name: of the framework.
        here: whether it sees the packages of this Python, and gets no torch of its own.
    """
    folder = ENVIRONMENTS / name
    if not folder.exists():
        venv.create(folder, with_pip=True)
    packages = PACKAGES[name]
    if here:
        packages = [package for package in packages if not package.startswith("torch==")]
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            raise SystemExit("--here: this Python has no torch; leave --here out")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        seen = folder / "lib" / version / "site-packages" / "here.pth"
        seen.write_text(f"{Path(torch.origin).parents[1]}\n")
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    print(f"{name}: {python}")


def main() -> None:
    """Set up what is named, or all."""
    names = [name for name in sys.argv[1:] if name != "--here"]
    for name in names or PACKAGES:
        if name not in PACKAGES:
            raise SystemExit(f"there is no {name!r}; choose from {', '.join(PACKAGES)}")
        set_up(name, here="--here" in sys.argv[1:])


if __name__ == "__main__":
    main()
