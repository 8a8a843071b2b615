"""Threads that train clients at the same time in this process.

torch releases the interpreter's lock within its operators, so threads keep several cores busy where
operators take long. Short steps are mostly Python's, and one thread takes them faster.

Some things a process has only once: torch's global generators, from which layers of others draw,
and the terminal, which a debugger reads. A thread that comes to use one raises ``NotAloneError``.
Then all threads are ended, and what is left is done in the caller's thread, with the same results:
what a chunk returns depends on its message, the clients' states and the data alone.
"""

from __future__ import annotations

import bdb
import ctypes
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import wraps
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch

from simfl.seeding import NotAloneError, global_generators, one_of_several, require_alone

T = TypeVar("T")
R = TypeVar("R")

LEAST_STEP_S = 2e-3
"""The CPU time of a step from which threads pay; of 1 ms, two gain little and may lose."""

LOCKED_S: Final = 5e-4
"""How long a step holds the interpreter's lock, so that one of 8 ms keeps 16 threads busy."""

_STOP_S: Final = 10.0
"""How long threads are waited for that are to end: a call of C may take longer."""


class Done(NamedTuple, Generic[T, R]):
    """A task that has been done."""

    task: T
    result: R
    cpu_s: float
    """The CPU time of the thread, which other load on the machine hardly affects."""
    thread: int | None
    """The number of the thread that has done it; None: the caller's."""


class Threads:
    """Does tasks: in several threads where that pays, and otherwise in the caller's.

    Args:
        most: the number of threads at most.
        inner: torch's own threads in each of them.
        num_steps: returns how many steps a task takes, one after the other.
        stopped: called when threads were ended before they were done.
    """

    def __init__(
        self,
        most: int,
        *,
        inner: int = 1,
        num_steps: Callable[[Any], float] = lambda _: 0.0,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self._most = most
        self._inner = inner
        self._num_steps = num_steps
        self._stopped = stopped
        self._step_s: dict[Hashable, float] = {}

    def must_try(self, kind: Hashable) -> bool:
        """Return whether some work of a kind has to show first how long its steps are."""
        return self._most > 1 and kind not in self._step_s and not is_followed()

    def number(self, kind: Hashable) -> int:
        """Return the number of threads that pay for a kind of work; 1: the caller's."""
        step_s = self._step_s.get(kind, 0.0)
        if step_s < LEAST_STEP_S or is_followed():
            return 1
        return max(1, min(self._most, int(step_s / LOCKED_S)))

    def stay_alone(self) -> None:
        """Use the caller's thread from now on."""
        self._most = 1

    def do(
        self,
        tasks: Sequence[T],
        work: Callable[[int, T], R],
        take: Callable[[Done[T, R]], None],
        *,
        kind: Hashable,
        num_threads: int = 1,
        skipped: int = 0,
    ) -> None:
        """Do tasks: one after another in the caller's thread, or several at a time.

        Args:
            tasks: to be begun in this order, none twice.
            work: the number of a thread from 0, and a task -> its result.
            take: called in the caller's thread with each task as it is done.
            kind: of the work, whose steps are about equally long.
            num_threads: how many threads do them.
            skipped: how many of the first ones do not show how long steps are.

        Raises:
            Exception: the first of a task; the others are given up.
        """
        num_threads = min(num_threads, self._most, len(tasks))
        left, spent = list(tasks), list[tuple[float, float]]()

        def take_one(done: Done[T, R]) -> None:
            left.remove(done.task)
            spent.append((done.cpu_s, self._num_steps(done.task)))
            take(done)

        try:
            if num_threads > 1:
                self._do_in_threads(tasks, work, take_one, num_threads)
        except NotAloneError:
            self.stay_alone()
        for task in list(left):
            take_one(Done(task, *_timed(work, 0, task), None))
        num_steps = sum(steps for _, steps in spent[skipped:])
        if num_steps:
            self._step_s[kind] = sum(cpu_s for cpu_s, _ in spent[skipped:]) / num_steps

    def _do_in_threads(
        self,
        tasks: Sequence[T],
        work: Callable[[int, T], R],
        take: Callable[[Done[T, R]], None],
        num_threads: int,
    ) -> None:
        todo, ended = deque(tasks), SimpleQueue[Done[T, R] | BaseException]()
        with global_generators(), _guarded():
            state = torch.default_generator.get_state()
            shared = todo, work, ended, state, self._inner
            threads = [
                Thread(target=copy_context().run, args=(_take_tasks, number, *shared), daemon=True)
                for number in range(num_threads)
            ]
            try:
                for thread in threads:
                    thread.start()
                for _ in tasks:
                    take(_result(ended.get()))
            except BaseException:
                todo.clear()
                _end(threads)
                self._stopped()
                raise
            for thread in threads:
                thread.join()


def _result(ended: Done[T, R] | BaseException) -> Done[T, R]:
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _take_tasks(
    number: int,
    todo: deque[T],
    work: Callable[[int, T], R],
    ended: SimpleQueue[Done[T, R] | BaseException],
    state: torch.Tensor,
    inner: int,
) -> None:
    """Do tasks until there is none left, or one fails, or the thread is ended."""
    try:
        torch.set_num_threads(inner)
        with one_of_several(state):
            while todo:
                try:
                    task = todo.popleft()
                except IndexError:  # another thread was faster
                    return
                ended.put(Done(task, *_timed(work, number, task), number))
    except BaseException as error:
        ended.put(error)


def _timed(work: Callable[[int, T], R], number: int, task: T) -> tuple[R, float]:
    """Return the result of a task, and the thread's CPU time."""
    began = time.thread_time()
    result = work(number, task)
    return result, time.thread_time() - began


def _end(threads: Sequence[Thread]) -> None:
    """Have threads end at their next line of Python."""
    deadline = time.monotonic() + _STOP_S
    while running := [thread for thread in threads if thread.is_alive()]:
        if time.monotonic() > deadline:
            return
        for thread in running:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
            )
        running[0].join(0.02)


def is_followed() -> bool:
    """Return whether a debugger or a profiler follows this thread; it may not follow others."""
    monitoring: Any = getattr(sys, "monitoring", None)  # from Python 3.12 on
    tools = (monitoring.DEBUGGER_ID, monitoring.PROFILER_ID) if monitoring else ()
    traced = sys.gettrace() is not None or sys.getprofile() is not None
    return traced or any(monitoring.get_tool(tool) is not None for tool in tools)


class _Guard:
    """Stands for an object whose attributes require that the thread is alone."""

    def __init__(self, guarded: Any) -> None:
        self._guarded = guarded

    def __getattr__(self, name: str) -> Any:
        require_alone()
        return getattr(self._guarded, name)


def _guard(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(*args: Any, **options: Any) -> Any:
        require_alone()
        return function(*args, **options)

    return guarded


@contextmanager
def _guarded() -> Iterator[None]:
    """Have ``breakpoint()``, debuggers, and what seeds torch require that their thread is alone."""
    replaced: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
        (sys, "breakpointhook", _guard),
        (bdb.Bdb, "set_trace", _guard),
        (torch.random, "default_generator", _Guard),
    )
    with ExitStack() as stack:
        for owner, name, guard in replaced:
            original = getattr(owner, name)
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, guard(original))
        yield
