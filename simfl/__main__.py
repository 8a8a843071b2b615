"""``python -m simfl``: the same as the command ``simfl``."""

from simfl.cli.main import main

if __name__ == "__main__":
    main()
