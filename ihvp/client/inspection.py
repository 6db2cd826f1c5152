"""A model before anything is solved on it: sizes, layout, a check of its loss, and what each method would cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ihvp.errors import IhvpError
from ihvp.jobs.submission import GradientOf, RhsSpec
from ihvp.models.spec import ModelSpec
from ihvp.results import LossCheck
from ihvp.tensors import ITEM_SIZE

if TYPE_CHECKING:
    from ihvp.client.client import Client
    from ihvp.models.spec import LayoutEntry
    from ihvp.wire import PredictionView

__all__ = ["CHECKED_POINTS", "Inspection", "inspect_model"]

CHECKED_POINTS: Final = 8


@dataclass(frozen=True)
class Inspection:
    """What a model is, and what solving on it would take.

    Attributes:
        reference: ``name@version``; None for a spec that is not registered.
        spec: The spec, its files uploaded.
        prediction: Of a job with one right-hand side; has the layout and the number of points.
        loss_check: Loss and gradient at the first eight points; None where it was left out or could not be made.
        no_check: Why there is none.
    """

    reference: str | None
    spec: ModelSpec
    prediction: PredictionView
    loss_check: LossCheck | None
    no_check: str | None

    @property
    def layout(self) -> list[LayoutEntry]:
        """The parameters, in the order of b and x."""
        return self.prediction.layout

    @property
    def num_params(self) -> int:
        """The length p of b and x."""
        return self.prediction.model.num_params

    @property
    def nbytes(self) -> int:
        """Bytes of one vector b or x, and of the parameters that H is taken over."""
        return self.num_params * ITEM_SIZE[self.spec.dtype]

    def as_dict(self) -> dict[str, Any]:
        """As JSON for scripts."""
        return {
            "reference": self.reference,
            "digest": self.prediction.model.digest,
            "architecture": self.spec.kind,
            "loss": None if self.spec.loss is None else self.spec.loss.type,
            "dtype": self.spec.dtype,
            "num_params": self.num_params,
            "num_points": self.prediction.num_points,
            "bytes": self.nbytes,
            "layout": [entry.model_dump(mode="json") for entry in self.layout],
            "loss_check": None if self.loss_check is None else self.loss_check.model_dump(mode="json"),
            "no_check": self.no_check,
            "prediction": self.prediction.model_dump(mode="json", exclude={"layout"}),
        }


def inspect_model(client: Client, model: str | ModelSpec, *, check: bool, timeout: float | None) -> Inspection:
    """Looks at a model; see ``Client.inspect``."""
    registered = client.model(model) if isinstance(model, str) else None
    reference = None if registered is None else registered.reference
    spec = registered.spec if registered is not None else model
    assert isinstance(spec, ModelSpec)  # noqa: S101
    rows = spec.data.index[:CHECKED_POINTS] if isinstance(spec.data.index, list) else None
    prediction = client.predict(model=reference or spec, rhs=_gradient(spec, rows[0] if rows else 0))
    if not check:
        return Inspection(reference, spec, prediction, None, "It was left out.")
    rows = rows or list(range(min(CHECKED_POINTS, prediction.num_points)))
    try:
        return Inspection(reference, spec, prediction, _loss_check(client, spec, rows, timeout), None)
    except IhvpError as error:
        return Inspection(reference, spec, prediction, None, str(error))


def _loss_check(client: Client, spec: ModelSpec, rows: list[int], timeout: float | None) -> LossCheck | None:
    """By a job that has nothing but these points: whoever has the most data waits no longer for it."""
    few = spec.model_copy(update={"data": spec.data.model_copy(update={"index": rows})})
    job = client.submit(
        model=few,
        rhs=_gradient(spec, rows[0]),
        hessian_perturbation=1.0,
        options={"maxiter": 1},
        tags={"purpose": "inspect"},
    )
    try:
        ended = client.wait(job.id, timeout)
    except IhvpError:
        client.cancel(job.id)
        raise
    from ihvp.client.faults import raise_unless_succeeded

    try:
        raise_unless_succeeded(ended)
        return client.result(job.id).info.loss_check
    finally:
        client.delete(job.id)


def _gradient(spec: ModelSpec, row: int) -> RhsSpec:
    """The gradient at one training point: the smallest right-hand side that there is."""
    return RhsSpec(gradient_of=GradientOf(inputs=spec.data.inputs, targets=spec.data.targets, index=[row]))
