"""The main job over HTTP, store, queue and worker, against a dense float64 oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ihvp import Client
from ihvp.errors import (
    JobFailed,
    JobNotFinished,
    JobNotFound,
    NoInfluence,
    RhsShapeMismatch,
    UnknownModel,
    WaitTimeout,
)
from ihvp.jobs.states import JobState
from ihvp.methods import InversionMethod, TerminationStatus

if TYPE_CHECKING:
    from tests.service.conftest import Array, Oracle

pytestmark = pytest.mark.service
DAMPING = 0.5
# cg stops at a residual of 1e-8; the condition of H + λI is below 10.
CG_ACCURACY = 1e-7


def error(x: Array, expected: Array) -> float:
    """The largest relative error of a row."""
    x, expected = np.atleast_2d(x), np.atleast_2d(expected)
    assert x.shape == expected.shape
    return float((np.linalg.norm(x - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize(("method", "accuracy"), [("cg", CG_ACCURACY), ("direct", 1e-11)])
@pytest.mark.parametrize("rows", [None, 3], ids=["one vector", "three"])
def test_x_is_the_oracles(client: Client, oracle: Oracle, method: str, accuracy: float, rows: int | None) -> None:
    p = oracle.model.num_params
    b = np.random.default_rng(1).normal(size=p if rows is None else (rows, p))
    result = client.solve(
        model=oracle.model.reference, rhs=b, method=method, hessian_perturbation=DAMPING, progress=False
    )
    assert result.x.shape == b.shape
    assert result.x.dtype == np.float64
    assert result.converged
    assert len(result.certificate) == (rows or 1)
    assert error(result.x, oracle.solve(np.atleast_2d(b), DAMPING)) < accuracy
    damped = oracle.hessian + DAMPING * np.eye(p)
    for entry, x, column in zip(result.certificate, np.atleast_2d(result.x), np.atleast_2d(b), strict=True):
        true = np.linalg.norm(damped @ x - column) / np.linalg.norm(column)
        assert entry.relative_residual == pytest.approx(true, rel=0.05, abs=1e-14)


def test_gradients_at_points_and_influence_scores(client: Client, oracle: Oracle) -> None:
    job = client.submit(
        model="oracle-mlp",
        rhs={"gradient_of": {"inputs": oracle.test_inputs, "targets": oracle.test_targets}},
        method="cg",
        hessian_perturbation=DAMPING,
        influence=True,
        tags={"suite": "influence"},
    )
    assert client.wait(job.id, timeout=60).state is JobState.Succeeded
    x = oracle.solve(oracle.test_gradients, DAMPING)
    assert error(client.result(job.id).x, x) < CG_ACCURACY
    expected = x @ oracle.training_gradients.T
    assert error(client.influence_scores(job.id), expected) < 1e-6
    top = client.influence(job.id, top=3).top
    for extremes, row in zip(top, expected, strict=True):
        assert [point.index for point in extremes.helpful] == list(np.argsort(-row)[:3])
        assert [point.index for point in extremes.harmful] == list(np.argsort(row)[:3])
    assert [found.id for found in client.jobs(tags={"suite": "influence"})] == [job.id]


def test_a_large_right_hand_side_goes_as_a_blob_and_comes_back_whole(client: Client, oracle: Oracle) -> None:
    b = np.random.default_rng(2).normal(size=(40, oracle.model.num_params))
    assert b.size > 1000
    result = client.solve(model="oracle-mlp", rhs=b, hessian_perturbation=DAMPING, progress=False)
    assert error(result.x, oracle.solve(b, DAMPING)) < CG_ACCURACY


def test_one_array_a_parameter_is_a_right_hand_side(client: Client, oracle: Oracle) -> None:
    rng = np.random.default_rng(3)
    parts = {entry.name: rng.normal(size=entry.shape) for entry in oracle.model.layout}
    result = client.solve(model="oracle-mlp", rhs=parts, hessian_perturbation=DAMPING, progress=False)
    b = np.concatenate([part.ravel() for part in parts.values()])
    assert error(result.x, oracle.solve(b[None], DAMPING)) < CG_ACCURACY


def test_registering_the_same_again_keeps_the_version(client: Client, oracle: Oracle) -> None:
    again = client.register_model("oracle-mlp", oracle.model.spec)
    assert again.reference == oracle.model.reference
    assert client.model("oracle-mlp").digest == oracle.model.digest
    assert "oracle-mlp" in [model.name for model in client.models()]


def test_not_converging_is_a_result_with_advice(client: Client, oracle: Oracle) -> None:
    b = np.ones(oracle.model.num_params)
    result = client.solve(
        model="oracle-mlp", rhs=b, hessian_perturbation=DAMPING, options={"maxiter": 1}, progress=False
    )
    assert not result.converged
    (entry,) = result.certificate
    assert entry.status is TerminationStatus.MaxIterations
    assert entry.relative_residual is not None
    assert entry.relative_residual > 1e-8
    assert entry.advice


def test_refusals_arrive_as_the_errors_of_their_codes(client: Client, oracle: Oracle) -> None:
    p = oracle.model.num_params
    with pytest.raises(RhsShapeMismatch, match=str(p)):
        client.submit(model="oracle-mlp", rhs=np.ones(p + 1))
    with pytest.raises(UnknownModel):
        client.submit(model="no-such-model", rhs=np.ones(p))
    with pytest.raises(JobNotFound):
        client.job("job_00000000000000000000000000")


def test_a_long_job_is_waited_for_cancelled_and_deleted(client: Client, oracle: Oracle) -> None:
    job = client.submit(
        model="oracle-mlp",
        rhs=np.ones(oracle.model.num_params),
        method="lissa",
        hessian_perturbation=DAMPING,
        options={"maxiter": 10_000_000, "rtol": 1e-300},
    )
    with pytest.raises(WaitTimeout):
        client.wait(job.id, timeout=1.0)
    with pytest.raises(JobNotFinished):
        client.result(job.id)
    client.cancel(job.id)
    ended = client.wait(job.id, timeout=20)
    assert ended.state is JobState.Cancelled
    with pytest.raises(JobFailed, match="cancelled"):
        from ihvp.client.faults import raise_unless_succeeded

        raise_unless_succeeded(ended)
    client.delete(job.id)
    with pytest.raises(JobNotFound):
        client.job(job.id)


def test_influence_has_to_be_asked_for(client: Client, oracle: Oracle) -> None:
    result = client.solve(
        model="oracle-mlp", rhs=np.ones(oracle.model.num_params), hessian_perturbation=DAMPING, progress=False
    )
    with pytest.raises(NoInfluence):
        client.influence(result.job_id)


def test_events_tell_the_whole_story_and_resume(client: Client, oracle: Oracle) -> None:
    job = client.submit(model="oracle-mlp", rhs=np.ones((2, oracle.model.num_params)), hessian_perturbation=DAMPING)
    events = list(client.events(job.id))
    states = [event.data["state"] for event in events if event.type == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert len({event.id for event in events}) == len(events)
    assert list(client.events(job.id, after=events[0].id)) == events[1:]
    assert list(client.events(job.id, after=events[-1].id)) == []
    with pytest.raises(JobNotFound):
        list(client.events("job_00000000000000000000000000"))


def test_methods_say_what_they_take(client: Client) -> None:
    by_name = {method.method: method for method in client.methods()}
    assert set(by_name) == {method.value for method in InversionMethod}
    assert "rtol" in by_name["cg"].options_schema["properties"]
