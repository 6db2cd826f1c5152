"""What a job would cost, by each method, without submitting it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from app.method_checks import check_perturbation, check_ranks
from app.submission import CheckedJob, check_job
from ihvp.costs.prediction import predict
from ihvp.costs.workload import Task
from ihvp.errors import InvalidInput
from ihvp.methods import InversionMethod
from ihvp.wire import JobModel, MethodPrediction, PredictionView

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.costs.observation import Known
    from ihvp.jobs.submission import JobSubmission

__all__ = ["predict_job"]


async def predict_job(services: Services, submission: JobSubmission) -> PredictionView:
    """Checks a submission as if it were to be accepted, and says what it would take.

    Raises:
        InvalidInput: As ``submit_job``.
        StoreUnavailable: As ``submit_job``.
    """
    checked = await check_job(services, submission, store_rhs=False)
    workload = checked.workload
    known = await services.expected.read(workload)
    request = checked.request
    predictions = [_predicted(checked, method, known, services) for method in InversionMethod]
    asked = next(found for found in predictions if found.asked)
    ahead = await services.jobs.foresee(request.priority, asked.seconds)
    return PredictionView(
        model=JobModel(**request.model.model_dump(include={"reference", "digest", "num_params"})),
        layout=checked.layout,
        num_points=workload.num_points,
        columns=workload.columns,
        curvature=request.curvature.value,
        hessian_perturbation=request.hessian_perturbation,
        memory_budget=services.settings.memory_budget,
        queue_length=ahead.queue_length,
        workers=ahead.workers,
        starts_in_s=ahead.starts_in_s,
        ends_in_s=ahead.ends_in_s,
        unknown=ahead.unknown,
        load_s=max((seen.load_s for seen in known.here), default=None),
        kept_bytes=next((seen.kept_bytes for seen in known.here if seen.kept_bytes is not None), None),
        predictions=predictions,
    )


def _predicted(checked: CheckedJob, method: InversionMethod, known: Known, services: Services) -> MethodPrediction:
    asked = method is checked.task.method
    task = checked.task if asked else _with_defaults(method, checked)
    found = predict(checked.workload, task, known)
    return MethodPrediction(
        method=method.value,
        asked=asked,
        bytes=found.bytes,
        fits=found.bytes <= services.settings.memory_budget,
        seconds=found.seconds,
        products=found.products,
        basis=found.basis.value,
        refused=_refusal(checked, task),
    )


def _with_defaults(method: InversionMethod, checked: CheckedJob) -> Task:
    """The method as it runs where only the tolerance is given."""
    task = Task.of(method, {}, checked.request.model.spec.dtype)
    # The rtol of lissa is that of its updates, not of the residual.
    same_meaning = InversionMethod.Lissa not in (method, checked.task.method)
    if task.rtol is None or checked.task.rtol is None or not same_meaning:
        return task
    return replace(task, options={**task.options, "rtol": checked.task.rtol})


def _refusal(checked: CheckedJob, task: Task) -> str | None:
    try:
        check_ranks(task, checked.workload.num_params)
        check_perturbation(task, checked.request.hessian_perturbation, checked.layout)
    except InvalidInput as error:
        return error.message
    return None
