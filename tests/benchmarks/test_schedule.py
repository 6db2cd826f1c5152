from __future__ import annotations

import pytest

from benchmarks.schedule import Schedule, Step

TABLE, CURVE, NEW = Step("row", "float32/1"), Step("row", "points"), Step("other", "float32/1")


def test_a_run_says_how_far_it_is_and_about_what_is_left() -> None:
    now, lines = [100.0], list[str]()
    schedule = Schedule([TABLE, CURVE, NEW], {TABLE: 60.0, CURVE: 30.0}, lines.append, clock=lambda: now[0])
    for step, seconds in ((TABLE, 75.0), (CURVE, 30.0), (NEW, 5.0)):
        with schedule.step(step):
            now[0] += seconds
    assert lines == [
        "[1/3] row: float32/1. 0:00 gone, about 1:30 left and 1 steps that never ran here.",
        "[2/3] row: points. 1:15 gone, about 0:30 left and 1 steps that never ran here.",
        "[3/3] other: float32/1. 1:45 gone, 1 steps left that never ran here.",
    ]
    assert schedule.seconds == {"row": {"float32/1": 75.0, "points": 30.0}, "other": {"float32/1": 5.0}}


def test_a_step_that_fails_has_not_been_done() -> None:
    schedule = Schedule([TABLE], {}, lambda line: None)
    with pytest.raises(RuntimeError), schedule.step(TABLE):
        raise RuntimeError
    assert schedule.seconds == {}
