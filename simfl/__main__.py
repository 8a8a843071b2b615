"""``python -m simfl``: the same as the command ``simfl``."""

import os
import sys

# With ``python -m``, unlike the command ``simfl``, Python searches the current folder first: a
# torch.py there would be imported instead of the package.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from simfl.cli.main import main

if __name__ == "__main__":
    main()
