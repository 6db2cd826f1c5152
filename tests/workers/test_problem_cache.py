"""Which models stay warm."""

from __future__ import annotations

import time
from dataclasses import dataclass

from workers.problem_cache import ProblemCache


@dataclass
class Sized:
    nbytes: int


def use(cache: ProblemCache[Sized], name: str, nbytes: int = 40, seconds: float = 0.001) -> bool:
    """One job on a model of this size; whether it was warm."""

    def make() -> Sized:
        time.sleep(seconds)
        return Sized(nbytes)

    _, warm = cache.get(name, make)
    cache.settle(name)
    return warm


def test_models_within_the_budget_stay() -> None:
    cache = ProblemCache[Sized](100)
    assert [use(cache, name) for name in ("a", "b", "a", "b")] == [False, False, True, True]
    assert cache.nbytes == 80


def test_the_one_that_is_cheapest_to_make_again_makes_room() -> None:
    cache = ProblemCache[Sized](100)
    use(cache, "dear", seconds=0.05)
    use(cache, "cheap")
    use(cache, "new")
    assert "dear" in cache
    assert "cheap" not in cache


def test_the_one_that_is_used_most_stays() -> None:
    cache = ProblemCache[Sized](100)
    for _ in range(50):
        use(cache, "often")
    use(cache, "once")
    use(cache, "new")
    assert "often" in cache
    assert "once" not in cache


def test_what_was_useful_long_ago_goes_in_the_end() -> None:
    cache = ProblemCache[Sized](100)
    for _ in range(3):
        use(cache, "old")
    for number in range(100):
        use(cache, f"new {number}")
    assert "old" not in cache


def test_a_model_that_grew_makes_room_for_itself() -> None:
    cache = ProblemCache[Sized](100)
    use(cache, "a")
    problem, _ = cache.get("b", lambda: Sized(40))
    assert len(cache) == 2
    problem.nbytes = 90
    cache.settle("b")
    assert "a" not in cache
    assert cache.nbytes == 90


def test_the_last_one_stays_even_beyond_the_budget_until_another_comes() -> None:
    cache = ProblemCache[Sized](100)
    use(cache, "huge", nbytes=1000)
    assert use(cache, "huge", nbytes=1000)
    held: list[int] = []

    def make() -> Sized:
        held.append(len(cache))
        return Sized(10)

    cache.get("small", make)
    assert held == [0], "it makes room before another is loaded, not after"
