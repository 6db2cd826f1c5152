"""All curves of a row, each a step of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.contestants import Server
from benchmarks.curves.growth import growth_with_parameters, growth_with_points
from benchmarks.curves.products import product_costs
from benchmarks.curves.residuals import residual_histories
from benchmarks.curves.right_hand_sides import block_speed_up
from benchmarks.machine import usable_cores
from benchmarks.rows import Row

__all__ = ["CURVES", "CurveInputs", "measure_curve"]

ROUNDS: Final = 3
QUICK_ROUNDS: Final = 2
REPEATS: Final = 2
QUICK_REPEATS: Final = 1
BLOCKS: Final = (1, 16)


@dataclass(frozen=True)
class CurveInputs:
    """What a curve is measured on.

    Attributes:
        row: The row.
        folder: Its files.
        servers: A process for each adapter that there is.
        quick: Fewer points and rounds.
    """

    row: Row
    folder: Path
    servers: Mapping[str, Server]
    quick: bool

    @property
    def ours(self) -> Server:
        """This project's process."""
        return self.servers["ihvp_solvers"]


def measure_curve(name: str, given: CurveInputs) -> Any:
    """One of :data:`CURVES`, JSON-ready."""
    with _all_cores():
        return CURVES[name](given)


def _products(given: CurveInputs) -> dict[str, Any]:
    rounds = QUICK_ROUNDS if given.quick else ROUNDS
    return {str(block): product_costs(given.folder, torch.float32, block=block, repeats=rounds) for block in BLOCKS}


def _right_hand_sides(given: CurveInputs) -> list[dict[str, float]]:
    repeats = QUICK_REPEATS if given.quick else REPEATS
    return block_speed_up(given.folder, given.ours, repeats=repeats, quick=given.quick)


def _overhead(given: CurveInputs) -> dict[str, Any]:
    # Only this one needs the worker's parts.
    from benchmarks.curves.overhead import history_overhead

    return history_overhead(given.folder, quick=given.quick)


CURVES: Final[Mapping[str, Callable[[CurveInputs], Any]]] = {
    "products": _products,
    "residuals": lambda given: residual_histories(given.folder, given.servers, quick=given.quick),
    "points": lambda given: growth_with_points(given.row, given.folder, given.ours, quick=given.quick),
    "parameters": lambda given: growth_with_parameters(given.row, given.folder, quick=given.quick),
    "right_hand_sides": _right_hand_sides,
    "overhead": _overhead,
}
"""How each curve is measured."""


@contextmanager
def _all_cores() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)
