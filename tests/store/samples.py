"""Jobs and models to put into stores."""

from __future__ import annotations

import itertools
from typing import Any

from ihvp.jobs.record import Certificate, JobError, Progress, ResultSummary
from ihvp.jobs.submission import JobRequest, Priority, ResolvedModel, ResolvedRhs
from ihvp.methods import InversionMethod
from ihvp.models.spec import LayoutEntry, ModelSpec

_numbers = itertools.count()


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


WEIGHTS, INPUTS, TARGETS, RHS, X, SCORES = map(digest, "abcdef")

PROGRESS = Progress(phase="solving", iteration=3, max_iterations=10, relative_residual=[0.5, None], rate_hvp_s=1.5)
ERROR = JobError(code="rhs_not_finite", message="It holds NaN.", given={"index": 3}, hint="Send numbers.")
RESULT = ResultSummary(
    digest=X,
    size=100,
    shape=[2, 3],
    dtype="float32",
    certificate=[Certificate(status="converged", relative_residual=1e-7, iterations=4, advice=None)],
    influence_digest=SCORES,
    solve_s=0.5,
)
LAYOUT = [LayoutEntry(name="weight", offset=0, shape=[1, 2]), LayoutEntry(name="bias", offset=2, shape=[1])]


def new_id() -> str:
    return f"job_{next(_numbers):026d}"


def model_spec(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "architecture": {"type": "linear", "config": {"in_features": 2, "out_features": 1}},
            "weights": WEIGHTS,
            "loss": "mse",
            "data": {"inputs": INPUTS, "targets": f"{TARGETS}#y"},
            **changes,
        }
    )


def job_request(reference: str | None = "digits@1", **changes: Any) -> JobRequest:
    spec = model_spec()
    values = {
        "model": ResolvedModel(reference=reference, digest=spec.digest, num_params=3, spec=spec),
        "rhs": ResolvedRhs(blob=RHS, shape=[2, 3]),
        "method": InversionMethod.Cg,
        "hessian_perturbation": 0.1,
        "options": {"rtol": 1e-5},
        "curvature": "hessian",
        "influence": None,
        "priority": Priority.Normal,
        "deadline_s": None,
        "tags": {},
    }
    return JobRequest(**(values | changes))
