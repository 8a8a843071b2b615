"""The exceptions of simfl, and what each means to its handler.

::

    SimflError                      anything simfl raises on purpose
    ├── InputError                  the user's input is wrong; the command line exits with 2
    │   ├── ConfigError             an invalid hyper-parameter or option (also a ValueError)
    │   ├── UnknownNameError        a name that is not registered (also a KeyError)
    │   ├── DataError               a data file or its contents
    │   ├── CheckpointError         a checkpoint, or the location of checkpoints
    │   ├── ImportPathError         a "package.module:name" or plug-in that cannot be imported
    │   └── ScenarioError           one or more faults of a scenario file, each with its place
    ├── MissingExtraError           an optional dependency is not installed
    ├── VectorError                 vectors whose names or shapes do not match
    ├── ContractError               a component breaks its contract (also an AssertionError)
    └── RunError                    the run failed; the command line exits with 1
        ├── ClientError             a client's own code raised; carries its traceback
        ├── NonFiniteUpdateError    a client sent NaN or infinite values
        ├── StatesLostError         states that a round needs were lost; a checkpoint has them
        ├── LeaseLostError          another process has taken over the run's folder
        ├── ClusterError            the cluster is unreachable or lacks resources
        └── AggregationError        nothing to aggregate, or updates that do not fit
"""

from __future__ import annotations

import difflib
import re
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = [
    "AggregationError",
    "CheckpointError",
    "ClientError",
    "ClusterError",
    "ConfigError",
    "ContractError",
    "DataError",
    "Fault",
    "ImportPathError",
    "InputError",
    "LeaseLostError",
    "MissingExtraError",
    "NonFiniteUpdateError",
    "RunError",
    "ScenarioError",
    "SimflError",
    "StatesLostError",
    "UnknownNameError",
    "VectorError",
    "did_you_mean",
    "import_extra",
    "one_line",
    "own_line",
    "plain_word",
    "printable",
]


class SimflError(Exception):
    """Anything simfl raises on purpose; its text is one line for the user."""

    def __str__(self) -> str:  # KeyError would print its argument with quotes around it
        return str(self.args[0]) if self.args else ""


class InputError(SimflError):
    """The user's input is invalid."""


class ConfigError(InputError, ValueError):
    """A hyper-parameter or option has an invalid value."""


class UnknownNameError(InputError, KeyError):
    """A name is not registered.

    >>> raise UnknownNameError("module", "momentun", ["momentum", "adam"])
    Traceback (most recent call last):
    simfl.errors.UnknownNameError: no module named 'momentun'. Did you mean 'momentum'?
    """

    def __init__(
        self, what: str, name: str, known: Iterable[str], *, instead: str | None = None
    ) -> None:
        hint = f"Write {instead}" if instead else did_you_mean(name, known)
        super().__init__(f"no {what} named {name!r}. {hint}".rstrip())

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args))


class DataError(InputError):
    """A data file is missing, cannot be read, or has unexpected contents."""


class CheckpointError(InputError):
    """A checkpoint is damaged, belongs to another run, or cannot be written or read."""


class ImportPathError(InputError):
    """A ``package.module:name`` or a plug-in module cannot be imported."""


class Fault(str):
    """A fault of a scenario: the line that users read, with its parts for programs.

    >>> Fault.at("s.yaml:3", "rounds", "is 0; should be at least 1").remedy
    'should be at least 1'
    """

    file: str | None = None
    """The scenario file as the user named it, ``--set``, or None for data given in Python."""
    number: int | None = None
    """The line in the file, from 1."""
    key: str | None = None
    """The dotted path: ``client.optimizer.modules[1]``."""
    value: Any = None
    """What the scenario has there; None if nothing."""
    message: str = ""
    """What is wrong, and what to do."""

    @classmethod
    def at(
        cls, place: str, key: str, message: str, *, number: int | None = None, value: Any = None
    ) -> Fault:
        """Make the fault whose line is ``PLACE: KEY: MESSAGE``, where place and key may be ""."""
        fault = cls(": ".join(part for part in (place, key, message) if part))
        fault.file = (place.removesuffix(f":{number}") if number else place) or None
        fault.number, fault.key = number, key or None
        fault.value, fault.message = value, message
        return fault

    def with_end(self, text: str) -> Fault:
        """Return the fault with more text at the end."""
        fault = Fault(f"{self} {text}")
        fault.__dict__ |= self.__dict__ | {"message": f"{self.message} {text}"}
        return fault

    @property
    def remedy(self) -> str | None:
        """What the message says to do, which is its end; None if it does not say."""
        *_, end = re.split(r"; |\. (?=[A-Z])", self.message, maxsplit=1)
        return end if end != self.message else None


class ScenarioError(InputError):
    """A scenario has faults: one line each, in the order of the file."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = [f if isinstance(f, Fault) else Fault.at("", "", f) for f in faults]

    def __reduce__(self) -> tuple[object, ...]:
        return (ScenarioError, (self.faults,))


class MissingExtraError(SimflError):
    """An optional dependency is not installed.

    >>> raise MissingExtraError("the 'huggingface' source", package="datasets", extra="hf")
    Traceback (most recent call last):
    simfl.errors.MissingExtraError: the 'huggingface' source needs the package 'datasets'; \
install it with: pip install 'simfl[hf]'
    """

    def __init__(self, what: str, *, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package!r}; install it with: pip install 'simfl[{extra}]'"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args))


def import_extra(module: str, *, what: str, extra: str, package: str | None = None) -> Any:
    """Import a module of an optional dependency.

    Args:
        module: its full name.
        what: the feature that needs it, for the message.
        extra: the extra of simfl that installs it.
        package: its distribution; None: named as the module.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        raise MissingExtraError(what, package=package, extra=extra) from error


class VectorError(SimflError, ValueError):
    """Vectors with different names or shapes were combined."""


class ContractError(SimflError, AssertionError):
    """A component breaks the contract of its kind; the text names the clause and the fault."""


class RunError(SimflError):
    """The run failed after it had started."""


class ClientError(RunError):
    """A client's own code raised.

    Attributes:
        client: the client's id.
        round: the round in which it happened.
        client_traceback: the traceback as the client's process printed it.
    """

    def __init__(self, message: str, *, client: int, round: int, client_traceback: str) -> None:
        super().__init__(message)
        self.client = client
        self.round = round
        self.client_traceback = client_traceback

    def __reduce__(self) -> tuple[object, ...]:
        details = {"client": self.client, "round": self.round}
        return (
            _rebuild,
            (type(self), self.args, details | {"client_traceback": self.client_traceback}),
        )


class NonFiniteUpdateError(RunError):
    """A client's update holds NaN or infinite values."""


class ClusterError(RunError):
    """The cluster cannot be reached, or lacks the resources that the scenario asks for."""


class LeaseLostError(RunError):
    """Another process has taken over a run's folder or its checkpoint location."""


class StatesLostError(RunError):
    """States that a round needs were lost; rolling back to a checkpoint restores them."""


class AggregationError(RunError):
    """There is nothing to aggregate, or the updates do not fit together."""


def own_line(error: BaseException) -> str:
    """Return where in the user's own code an error was raised, as ``" (FILE, line N, in NAME)"``.

    Empty if the traceback contains none. simfl and installed packages are not the user's code.
    """
    installed = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    not_own = (str(Path(__file__).parent), *installed, "<frozen", "<string>", "<class")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(not_own)]
    return f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})" if own else ""


def one_line(text: object) -> str:
    r"""Return text or an error's message on one line, with control characters escaped.

    >>> one_line("cut short\n at \x1b[31m8")
    "cut short at '\\x1b'[31m8"
    """
    return printable(" ".join(str(text).split()))


def printable(text: str) -> str:
    r"""Return text with control characters escaped, except for newlines and tabs.

    >>> printable("\x1b]0;title\x07\n")
    "'\\x1b']0;title'\\x07'\n"
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c) for c in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, or list all.

    >>> did_you_mean("adma", ["adam", "yogi"])
    "Did you mean 'adam'?"
    >>> did_you_mean("SCAFFOLD", ["fedavg", "scaffold"])
    "Did you mean 'scaffold'?"
    >>> did_you_mean("xyz", ["adam", "yogi"])
    'Known: adam, yogi.'
    """
    names = sorted(known)
    by_plain_word = {plain_word(known): known for known in reversed(names)}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if nearest := by_plain_word.get(plain_word(name)) or next(iter(near), None):
        return f"Did you mean {nearest!r}?"
    return f"Known: {', '.join(map(one_line, names))}." if names else ""


def plain_word(word: str) -> str:
    """Return a word without what spellings differ in: case, hyphens, underscores and spaces.

    >>> plain_word("Trimmed_Mean") == plain_word("trimmed-mean")
    True
    """
    return word.casefold().replace("-", "").replace("_", "").replace(" ", "")


def _rebuild(
    cls: type[SimflError], args: tuple[object, ...], attributes: dict[str, object] | None = None
) -> SimflError:
    """Unpickle an exception whose constructor takes other arguments than the message."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes or {})
    return error
