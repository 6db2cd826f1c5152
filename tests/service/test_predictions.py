"""Predictions end to end: what a worker measures is what the next dry run rests on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from ihvp import Client
from ihvp.methods import InversionMethod

if TYPE_CHECKING:
    from ihvp.wire import ModelView, PredictionView

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def model(client: Client) -> ModelView:
    """A linear regression that no other test solves on."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 6)).astype("float32")
    return client.register_model(
        "predicted",
        architecture={"type": "linear", "config": {"in_features": 6, "out_features": 1}},
        weights={"weight": np.ones((1, 6), "float32"), "bias": np.zeros(1, "float32")},
        loss="mse",
        data={"inputs": x, "targets": x @ np.ones((6, 1), "float32")},
    )


def test_a_solve_makes_the_next_prediction_rest_on_this_model(client: Client, model: ModelView) -> None:
    def predict() -> PredictionView:
        return client.predict(model=model.reference, rhs=np.eye(7)[:3], hessian_perturbation=0.1)

    before = predict()
    assert before.asked.basis != "this_model"
    assert before.workers >= 1
    assert {entry.method for entry in before.predictions} == {method.value for method in InversionMethod}
    result = client.solve(model=model.reference, rhs=np.eye(7)[:3], hessian_perturbation=0.1, progress=False)
    assert result.converged

    # The worker writes after the result is visible, from a thread of its own.
    until = time.monotonic() + 20
    while (after := predict()).asked.basis != "this_model":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert after.asked.products == pytest.approx(float(result.info.model_dump()["hvps"]), abs=6)
    assert 0 < after.asked.seconds < 60
    assert after.load_s is not None
    assert after.kept_bytes
    assert (after.num_points, after.columns) == (80, 3)
    metrics = httpx.get(f"{client.url}/metrics").text
    assert 'ihvp_prediction_log_error_bucket{le="+Inf",method="cg"}' in metrics
