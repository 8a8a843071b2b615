"""From exceptions to exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from simfl.errors import (
    ClientError,
    InputError,
    MissingExtraError,
    ScenarioError,
    SimflError,
    own_line,
    printable,
)

FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Print an error of ours without a traceback, and exit with its code.

    Anything else is a mistake of simfl's or in a user's code: its traceback is shown.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise _exit(str(interrupt) or "interrupted", INTERRUPTED) from None
    except ClientError as error:
        raise _exit(f"{error}\n\n{error.client_traceback.rstrip()}", FAILED) from None
    except (InputError, MissingExtraError) as error:
        raise _exit(str(error) + own_traceback(error), BAD_INPUT) from None
    except SimflError as error:
        raise _exit(str(error), FAILED) from None


def own_traceback(error: BaseException) -> str:
    """Return the traceback of an exception in the user's code that caused the error, or ""."""
    cause = error.__cause__
    if not isinstance(error, ScenarioError) or cause is None or not own_line(cause):
        return ""
    return "\n\n" + "".join(traceback.format_exception(cause)).rstrip()


def _exit(message: str, code: int) -> typer.Exit:
    typer.echo(printable(message), err=True)
    return typer.Exit(code)
