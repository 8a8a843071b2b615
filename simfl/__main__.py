"""``python -m simfl``: the same as the command ``simfl``."""

import os
import sys

# Python puts the current folder before all others here, and not for the command ``simfl``: a
# torch.py there would be taken for the package.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from simfl.cli.main import main

if __name__ == "__main__":
    main()
