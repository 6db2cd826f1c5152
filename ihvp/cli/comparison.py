"""How two runs of a job look side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from ihvp.client.rerun import Rerun
    from ihvp.jobs.record import Certificate

__all__ = ["comparison_table"]


def comparison_table(both: Rerun) -> Table:
    """One line a right-hand side: both certificates, and how far x is apart."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    first, second = both.first, both.second
    for column in ("rhs", first.job_id if first else "(no result)", second.job_id, "relative difference of x"):
        table.add_column(column, no_wrap=True)
    for number, entry in enumerate(second.certificate):
        before = "" if first is None else _told(first.certificate[number])
        table.add_row(str(number), before, _told(entry), _apart(both, number))
    return table


def _told(entry: Certificate) -> str:
    residual = "not finite" if entry.relative_residual is None else f"{entry.relative_residual:.2e}"
    return f"{entry.status.value} {residual}, {entry.iterations} iterations"


def _apart(both: Rerun, number: int) -> str:
    if not both.differences:
        return ""
    found = both.differences[number]
    return "not finite" if found is None else f"{found:.2e}"
