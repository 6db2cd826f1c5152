"""All curves of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.contestants import Server
from benchmarks.curves.growth import growth_with_parameters, growth_with_points
from benchmarks.curves.products import product_costs
from benchmarks.curves.residuals import residual_histories
from benchmarks.machine import usable_cores
from benchmarks.rows import Row

__all__ = ["measure_curves"]

ROUNDS: Final = 5
QUICK_ROUNDS: Final = 2
BLOCKS: Final = (1, 16)


def measure_curves(
    row: Row, folder: Path, servers: Mapping[str, Server], *, quick: bool, tell: Callable[[str], None]
) -> dict[str, Any]:
    """``products``, ``residuals``, and unless ``quick`` ``points`` and ``parameters``; JSON-ready."""
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        tell(f"{row.name}: products")
        rounds = QUICK_ROUNDS if quick else ROUNDS
        curves: dict[str, Any] = {
            "products": {
                str(block): product_costs(folder, torch.float32, block=block, repeats=rounds) for block in BLOCKS
            }
        }
        tell(f"{row.name}: residual against time")
        curves["residuals"] = residual_histories(folder, servers)
        if not quick:
            tell(f"{row.name}: growth with n and p")
            curves["points"] = growth_with_points(row, folder, servers["ihvp_solvers"])
            curves["parameters"] = growth_with_parameters(row, folder)
        return curves
    finally:
        torch.set_num_threads(threads)
