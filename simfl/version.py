"""The version of simfl that is installed."""

from importlib import metadata

__all__ = ["__version__"]

try:
    __version__ = metadata.version("simfl")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"
