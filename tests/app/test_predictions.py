"""``POST /v1/jobs?dry_run=true``: what a job would take, and that nothing is created."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import redis

from ihvp.costs.observation import Observation
from ihvp.costs.redis_store import RedisCostStore
from ihvp.methods import Curvature, InversionMethod
from tests.app.conftest import MakeService
from tests.app.driver import Service, npy, problem


@pytest.fixture
def fresh(make_service: MakeService) -> Service:
    return make_service()


@pytest.fixture
def costs(fresh: Service) -> Iterator[RedisCostStore]:
    """The store of observations as a worker sees it."""
    with closing(RedisCostStore.from_settings(fresh.settings)) as store:
        yield store


def predict(service: Service, **changes: Any) -> dict[str, Any]:
    response = service.http.post("/v1/jobs?dry_run=true", json=service.submission(**changes))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def asked(found: dict[str, Any]) -> dict[str, Any]:
    (entry,) = [entry for entry in found["predictions"] if entry["asked"]]
    return dict(entry)


def seen(model: dict[str, Any], **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "model": model["digest"],
        "curvature": Curvature.Hessian,
        "method": InversionMethod.Cg,
        "architecture": "linear",
        "dtype": "float32",
        "num_params": 3,
        "num_points": 10,
        "columns": 1,
        "damping": 0.1,
        "rtol": 1e-5,
        "seconds": 5.0 + 4 * 0.25,
        "seconds_per_product": 0.25,
        "load_s": 0.5,
        "products": 4.0,
        "iterations": 3,
        "reached": True,
        "kept_bytes": 1234,
    }
    return Observation(**(values | changes))


def test_every_method_is_predicted_and_the_one_asked_for_is_marked(fresh: Service) -> None:
    found = predict(fresh, method="minres", hessian_perturbation=0.1)
    assert [entry["method"] for entry in found["predictions"]] == [method.value for method in InversionMethod]
    assert asked(found)["method"] == "minres"
    assert all(entry["bytes"] > 0 and entry["seconds"] > 0 and entry["fits"] for entry in found["predictions"])
    assert {entry["basis"] for entry in found["predictions"]} == {"default"}
    assert {entry["refused"] for entry in found["predictions"]} == {None}
    assert found["model"]["num_params"] == 3
    assert (found["num_points"], found["columns"], found["curvature"]) == (10, 1, "hessian")
    assert found["memory_budget"] == fresh.settings.memory_budget


def test_nothing_is_created(fresh: Service) -> None:
    submission = fresh.submission(rhs={"inline": [9.0, 8.0, 7.0]}, hessian_perturbation=0.1)
    before = {path.name for path in fresh.settings.blob_dir.rglob("*") if path.is_file()}
    for value in ("true", "1"):
        assert fresh.http.post(f"/v1/jobs?dry_run={value}", json=submission).status_code == 200
    assert {path.name for path in fresh.settings.blob_dir.rglob("*") if path.is_file()} == before
    assert fresh.http.get("/v1/jobs").json()["jobs"] == []
    assert fresh.jobs.queue_length() == 0
    assert "ihvp_jobs_submitted_total{" not in fresh.http.get("/metrics").text
    assert fresh.http.post("/v1/jobs?dry_run=false", json=submission).status_code == 202
    problem(fresh.http.post("/v1/jobs?dry_run=maybe", json=submission), 422, "validation_error")


def test_it_rests_on_this_model_then_on_others_and_says_so(fresh: Service, costs: RedisCostStore) -> None:
    model = fresh.register()
    other = fresh.register("other", dtype="float64")
    costs.record(seen(model), None)
    found = predict(fresh, model=model["reference"], hessian_perturbation=0.1)
    here = asked(found)
    assert here["basis"] == "this_model"
    assert here["seconds"] == pytest.approx(6.0)
    assert here["products"] == 4
    assert (found["load_s"], found["kept_bytes"]) == (0.5, 1234)
    # The same shape in float64: twice as long a product, and no iterations of its own.
    there = asked(predict(fresh, model=other["reference"], hessian_perturbation=0.1))
    assert there["basis"] == "other_models"
    assert there["seconds"] > 1
    direct = next(entry for entry in found["predictions"] if entry["method"] == "direct")
    assert (direct["basis"], direct["products"]) == ("this_model", 4)
    # Another curvature of the same model has not been measured.
    ggn = asked(predict(fresh, model=model["reference"], curvature="ggn", hessian_perturbation=0.1))
    assert ggn["basis"] == "default"


def test_more_right_hand_sides_take_more(fresh: Service) -> None:
    many = {"blob": fresh.put(npy(np.ones((64, 3), np.float32)))}
    few, lots = asked(predict(fresh)), asked(predict(fresh, rhs=many))
    assert lots["bytes"] == 64 * few["bytes"]
    assert lots["products"] > 10 * few["products"]


def test_methods_that_the_lambda_or_the_budget_rules_out_are_marked(make_service: MakeService) -> None:
    service = make_service(memory_budget=100)
    found = {entry["method"]: entry for entry in predict(service, hessian_perturbation={"*": 0.1})["predictions"]}
    assert "one λ for all" in found["nystrom"]["refused"]
    assert found["cg"]["refused"] is None
    assert found["cg"]["fits"]
    assert not found["direct"]["fits"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rhs": {"inline": [1.0]}}, "rhs_shape_mismatch"),
        ({"model": "nobody"}, "unknown_model"),
        ({"method": "magic"}, "unknown_method"),
        ({"options": {"rtoll": 1}}, "unknown_option"),
        ({"method": "kfac"}, "invalid_option"),
        ({"rhs": {"blob": "sha256:" + "0" * 64}}, "unknown_blob"),
        ({"hessian_perturbation": {"x": 1}}, "unknown_parameters"),
        ({"lambda": 1}, "validation_error"),
    ],
)
def test_a_dry_run_refuses_what_a_submit_refuses(service: Service, changes: dict[str, Any], code: str) -> None:
    body = service.submission(**changes)
    dry, real = (service.http.post("/v1/jobs", json=body, params={"dry_run": dry}) for dry in (True, False))
    refusals = [problem(response, 422, code) for response in (dry, real)]
    assert refusals[0]["detail"] == refusals[1]["detail"]


def test_a_submit_pays_nothing_for_predictions(fresh: Service) -> None:
    """The model is looked up and the job created, as before there were any; a dry run asks for what is known."""
    submission = fresh.submission()

    def scripts(dry_run: bool) -> int:
        with redis.Redis.from_url(fresh.settings.redis_url) as server:
            before = server.info("commandstats")["cmdstat_evalsha"]["calls"]
            fresh.http.post("/v1/jobs", json=submission, params={"dry_run": dry_run}).raise_for_status()
            return int(server.info("commandstats")["cmdstat_evalsha"]["calls"] - before)

    scripts(dry_run=True)
    scripts(dry_run=False)
    assert scripts(dry_run=False) == 2
    assert scripts(dry_run=True) == 3


def test_the_queue_ahead_and_when_it_would_start(fresh: Service) -> None:
    idle = predict(fresh)
    assert (idle["queue_length"], idle["workers"], idle["starts_in_s"]) == (0, 0, None)
    assert idle["unknown"] == "no_live_worker"
    fresh.jobs.worker_alive("w1")
    idle = predict(fresh)
    assert (idle["starts_in_s"], idle["ends_in_s"], idle["unknown"]) == (0, None, "nothing_measured")
    fresh.finished()  # a first job shows how fast predicted seconds go by
    for _ in range(3):
        fresh.submit()
    busy = predict(fresh)
    assert (busy["queue_length"], busy["workers"], busy["unknown"]) == (3, 1, None)
    # Three alike stand before it, and it is one more.
    assert busy["starts_in_s"] == pytest.approx(3 * (busy["ends_in_s"] - busy["starts_in_s"]), rel=0.1)
    assert busy["starts_in_s"] > 0
    fresh.jobs.worker_alive("w2")
    assert predict(fresh)["starts_in_s"] == pytest.approx(busy["starts_in_s"] / 2, rel=0.1)
    assert predict(fresh, priority="high")["starts_in_s"] == 0


def test_metrics_show_how_far_predictions_were_off(fresh: Service, costs: RedisCostStore) -> None:
    assert "ihvp_prediction_log_error_bucket{" not in fresh.http.get("/metrics").text
    model = fresh.register()
    for error in (0.05, -0.2, 5.0):
        costs.record(seen(model), error)
    costs.record(seen(model, method=InversionMethod.Direct), -0.3)
    lines = fresh.http.get("/metrics").text.splitlines()
    assert 'ihvp_prediction_log_error_bucket{le="-0.25",method="cg"} 0.0' in lines
    assert 'ihvp_prediction_log_error_bucket{le="-0.1",method="cg"} 1.0' in lines
    assert 'ihvp_prediction_log_error_bucket{le="0.1",method="cg"} 2.0' in lines
    assert 'ihvp_prediction_log_error_bucket{le="2.0",method="cg"} 2.0' in lines
    assert 'ihvp_prediction_log_error_bucket{le="+Inf",method="cg"} 3.0' in lines
    assert 'ihvp_prediction_log_error_bucket{le="-0.25",method="direct"} 1.0' in lines
