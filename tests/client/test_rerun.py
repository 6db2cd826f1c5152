"""Two results of one job side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from ihvp.client.rerun import compare
from ihvp.client.result import SolveResult
from ihvp.jobs.record import Certificate
from ihvp.methods import TerminationStatus
from ihvp.results import Provenance, ResultInfo


def result(x: Any, **provenance: Any) -> SolveResult:
    fields: dict[str, Any] = {
        "job_id": "job_1", "attempt": 1, "model": None, "model_digest": "", "weights": "", "data": {}, "rhs": {},
        "dtype": "float64", "device": "cpu", "threads": 1, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    certificate = Certificate(status=TerminationStatus.Converged, relative_residual=1e-9, iterations=3, advice=None)
    info = ResultInfo(certificate=[certificate] * len(x), method="cg", options={}, timings={})
    return SolveResult("job_1", np.asarray(x), info, Provenance(**{**fields, **provenance}), "sha256:")


def test_the_same_bits_are_identical_and_nothing_has_changed() -> None:
    both = compare(result([[3.0, 4.0]]), result([[3.0, 4.0]]))
    assert (both.identical, both.differences, both.changed) == (True, [0.0], {})


def test_what_differs_is_told_with_both_values_a_row_at_a_time() -> None:
    first = result([[3.0, 4.0], [1.0, 0.0]])
    both = compare(first, result([[3.0, 4.5], [1.0, 0.0]], versions={"torch": "2.14.0"}, threads=4))
    assert both.differences == [0.1, 0.0]
    assert both.changed == {"version of torch": ("2.13.0", "2.14.0"), "threads": (1, 4)}
    assert both.agrees(0.1)
    assert not both.agrees(0.09)


def test_what_is_not_finite_agrees_with_nothing_but_itself() -> None:
    bad = result([[np.nan, 1.0]])
    assert compare(bad, bad).identical
    both = compare(result([[1.0, 1.0]]), bad)
    assert both.differences == [None]
    assert not both.agrees(1.0)


def test_without_a_first_result_there_is_nothing_to_agree_with() -> None:
    both = compare(None, result([[1.0]]), "It was removed.")
    assert not both.agrees(1.0)
    assert both.as_dict()["no_first"] == "It was removed."
