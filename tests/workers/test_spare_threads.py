"""Threads that serve again."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from workers.spare_threads import SpareThreads


def test_a_thread_serves_again_under_the_name_of_its_work() -> None:
    threads = SpareThreads()
    seen: list[tuple[int, str]] = []

    def note() -> None:
        this = threading.current_thread()
        seen.append((this.ident or 0, this.name))

    for name in ("first", "second"):
        assert threads.run(note, name).join(5.0)
        wait_until_idle(threads)
    assert [name for _, name in seen] == ["first", "second"]
    assert seen[0][0] == seen[1][0]


def test_works_at_the_same_time_have_a_thread_each() -> None:
    threads = SpareThreads()
    met = threading.Barrier(3)
    works = [threads.run(lambda: void(met.wait(5.0)), f"work-{number}") for number in range(2)]
    met.wait(5.0)
    assert all(work.join(5.0) for work in works)


def test_hanging_work_is_not_waited_for_without_bound() -> None:
    threads, go_on = SpareThreads(), threading.Event()
    work = threads.run(lambda: void(go_on.wait(5.0)), "hangs")
    assert not work.join(0.01)
    go_on.set()
    assert work.join(5.0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_fails_ends_and_its_thread_goes_on() -> None:
    threads, told = SpareThreads(), []
    before, threading.excepthook = threading.excepthook, lambda args: told.append(args.exc_value)
    try:
        assert threads.run(lambda: [][1], "fails").join(5.0)
    finally:
        threading.excepthook = before
    assert isinstance(told[0], IndexError)
    assert threads.run(lambda: None, "next").join(5.0)


def test_an_idle_thread_keeps_nothing_alive() -> None:
    class Model:
        pass

    threads, model = SpareThreads(), Model()
    gone = weakref.ref(model)
    assert threads.run(lambda model=model: None, "holds").join(5.0)  # type: ignore[misc]
    wait_until_idle(threads)
    del model
    gc.collect()
    assert gone() is None


def void(_: object) -> None:
    """Takes a value for which there is no use."""


def wait_until_idle(threads: SpareThreads) -> None:
    for _ in range(1000):
        if threads._idle:
            return
        threading.Event().wait(0.002)
    raise AssertionError("the thread did not come back")
