"""A job that was run again: both results side by side, and whether x is the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ihvp.client.result import Array, SolveResult

__all__ = ["Rerun", "compare"]


@dataclass(frozen=True)
class Rerun:
    """Two runs of one job.

    Attributes:
        first: The result of the job that was run again; None where there is none any more.
        second: The new one.
        no_first: Why there is no first result.
        differences: ‖x₂ − x₁‖ / ‖x₁‖, one a right-hand side; None where it is not finite. Empty without a
            first result.
        identical: Whether x is the same to the last bit.
        changed: What of the circumstances differs that the last bits of x depend on, with both values: versions,
            device, threads, strategy of the products, and what earlier jobs had left to start from. Where it is
            empty, the same bits are to be expected.
    """

    first: SolveResult | None
    second: SolveResult
    no_first: str | None
    differences: list[float | None]
    identical: bool
    changed: dict[str, tuple[Any, Any]]

    def agrees(self, tolerance: float) -> bool:
        """Whether x is the same, to the last bit or to this relative difference in each right-hand side."""
        near = [found is not None and found <= tolerance for found in self.differences]
        return self.identical or (bool(near) and all(near))

    def as_dict(self) -> dict[str, Any]:
        """As JSON for scripts, without x."""
        return {
            "first": None if self.first is None else _told(self.first),
            "second": _told(self.second),
            "no_first": self.no_first,
            "relative_difference": self.differences,
            "identical": self.identical,
            "changed": {name: {"first": a, "second": b} for name, (a, b) in self.changed.items()},
        }


def compare(first: SolveResult | None, second: SolveResult, no_first: str | None = None) -> Rerun:
    """Holds two results of one job against each other; see :class:`Rerun`."""
    if first is None:
        return Rerun(None, second, no_first, [], identical=False, changed={})
    return Rerun(
        first,
        second,
        None,
        differences=_relative(first.x, second.x),
        identical=bool(np.array_equal(first.x, second.x, equal_nan=True)),
        changed=_changed(_circumstances(first), _circumstances(second)),
    )


def _relative(x: Array, other: Array) -> list[float | None]:
    rows, others = (np.atleast_2d(each).astype(np.float64) for each in (x, other))
    found = []
    for row, again in zip(rows, others, strict=True):
        apart, length = float(np.linalg.norm(again - row)), float(np.linalg.norm(row))
        ratio = apart / length if length else apart
        found.append(ratio if math.isfinite(ratio) else None)
    return found


def _circumstances(result: SolveResult) -> dict[str, Any]:
    provenance, info = result.provenance, result.info.model_extra or {}
    return {
        **{f"version of {name}": number for name, number in provenance.versions.items()},
        "device": provenance.device,
        "device name": provenance.device_name,
        "threads": provenance.threads,
        "strategy": info.get("strategy"),
        "model warm": provenance.warm_model,
        "solved along with": info.get("coalesced"),
    }


def _changed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*first, *(name for name in second if name not in first)]
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _told(result: SolveResult) -> dict[str, Any]:
    return {
        "job_id": result.job_id,
        "digest": result.digest,
        "info": result.info.model_dump(mode="json"),
        "provenance": result.provenance.model_dump(mode="json"),
    }
