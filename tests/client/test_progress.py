"""The progress bar's one number: how far the residual has come."""

from __future__ import annotations

import pytest

from ihvp.client.progress import fraction_done


@pytest.mark.parametrize(
    ("first", "now", "target", "done"),
    [
        (1.0, 1.0, 1e-4, 0.0),
        (1.0, 1e-2, 1e-4, 0.5),
        (1.0, 1e-9, 1e-4, 1.0),
        (1.0, 50.0, 1e-4, 0.0),  # CG's residual may rise at first
        (None, None, 1e-4, 0.0),
        (1e-6, 1e-7, 1e-5, 0.0),  # there from the start
        (float("nan"), 1.0, 1e-5, 0.0),
        (1.0, 0.0, 1e-5, 0.0),
    ],
)
def test_fraction_is_logarithmic_and_bounded(
    first: float | None, now: float | None, target: float, done: float
) -> None:
    assert fraction_done(first, now, target) == pytest.approx(done)
