"""Threads that do tasks at the same time: each once, their errors, and what is done alone."""

from __future__ import annotations

import bdb
import gc
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from simfl.engine.threads import LEAST_STEP_S, Done, Threads
from simfl.seeding import Undrawn, global_generators, is_alone, one_of_several


class Crew:
    """Does numbered tasks in two threads, and keeps what it is handed."""

    def __init__(self) -> None:
        self.done: list[Done[int, Any]] = []
        self.stops = 0
        self.threads = Threads(2, num_steps=lambda _: 1, stopped=self._stop)
        self.both = threading.Barrier(2)
        self.others = threading.active_count()  # Ray's, if a test before this one has used it

    def _stop(self) -> None:
        self.stops += 1
        assert threading.active_count() == self.others, "they have ended"

    def do(self, work: Callable[[int], Any], tasks: int = 2) -> dict[int, int | None]:
        """Return by task which thread has done it; the first two begin together."""

        def of_thread(_: int, task: int) -> Any:
            if task < 2 and threading.current_thread() is not threading.main_thread():
                self.both.wait()
            return work(task)

        self.threads.do(range(tasks), of_thread, self.done.append, kind="k", num_threads=2)
        return {done.task: done.thread for done in self.done}


def test_each_task_is_done_once_and_handed_to_the_caller() -> None:
    crew = Crew()
    by = crew.do(lambda task: task * task, tasks=9)
    assert {done.task: done.result for done in crew.done} == {n: n * n for n in range(9)}
    assert (len(crew.done), {by[0], by[1]}, crew.stops) == (9, {0, 1}, 0)


def test_an_error_ends_the_other_threads_in_the_midst_of_their_work() -> None:
    def work(task: int) -> None:
        while task:
            pass
        raise ValueError("broken")

    crew = Crew()
    with pytest.raises(ValueError, match="broken"):
        crew.do(work)
    assert (crew.done, crew.stops) == ([], 1)


def test_an_interrupt_ends_the_threads() -> None:
    def work(task: int) -> None:
        if not task:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while True:
            pass

    crew = Crew()
    with pytest.raises(KeyboardInterrupt):
        crew.do(work)
    assert crew.stops == 1


def draw() -> None:
    with global_generators() if is_alone() else Undrawn():
        torch.rand(1)


def seed() -> None:
    torch.manual_seed(torch.initial_seed())


def fork() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)


def reserve() -> None:
    with global_generators():
        pass


def debug() -> None:
    bdb.Bdb().set_trace()


@pytest.mark.parametrize("use", [breakpoint, debug, draw, seed, fork, reserve])
def test_what_the_process_has_once_is_used_by_the_caller_alone(
    use: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is all that follows."""
    monkeypatch.setattr(sys, "breakpointhook", lambda: None)
    monkeypatch.setattr(bdb.Bdb, "set_trace", lambda _: None)
    crew, state = Crew(), torch.get_rng_state()
    by = crew.do(lambda task: use() if task else None)
    assert (by.keys(), by[1], crew.stops) == ({0, 1}, None, 1)
    crew.done.clear()
    assert crew.do(lambda task: None) == {0: None, 1: None}
    if use is not seed:
        assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)


def test_threads_are_as_many_as_long_steps_pay_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(16, num_steps=lambda step_s: 1)
    numbers = {}
    for step_s in (0.5 * LEAST_STEP_S, LEAST_STEP_S, 0.004, 1.0):
        assert threads.must_try(step_s)
        cpu_s = iter([0.0, 5.0, 0.0, step_s])  # the first task does not count
        monkeypatch.setattr("simfl.engine.threads.time.thread_time", cpu_s.__next__)
        threads.do([0, step_s], lambda *_: None, lambda _: None, kind=step_s, skipped=1)
        assert not threads.must_try(step_s)
        numbers[step_s] = threads.number(step_s)
    assert numbers == {0.5 * LEAST_STEP_S: 1, LEAST_STEP_S: 4, 0.004: 8, 1.0: 16}


def test_under_a_debugger_there_is_one_thread() -> None:
    threads = Threads(16, num_steps=lambda _: 1e-9)
    threads.do([0], lambda *_: None, lambda _: None, kind="k")
    assert threads.number("k") == 16
    traced, trace = sys.gettrace(), lambda *_: None
    sys.settrace(trace)
    try:
        numbers = threads.number("k"), threads.must_try("other")
    finally:
        sys.settrace(traced)
    assert numbers == (1, False)


def test_a_context_that_an_ended_thread_has_not_left_is_collected_by_another_in_silence() -> None:
    contexts: list[Undrawn] = []

    def begin() -> None:
        with one_of_several(torch.get_rng_state()):
            contexts.append(Undrawn())
            contexts[0].__enter__()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    contexts.clear()  # pytest reports what is raised while an object is collected
    gc.collect()
