"""What a caller wants of a solution where that is not the solution itself: its dot products with rows of a blob."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from app.dot_products import FlatRows, RowPart, dot_products
from app.held_blobs import HeldBlobs, held_blobs
from app.looking import look
from app.model_inspection import inspect_model
from app.referenced_files import ReferencedFiles
from app.results import finished_job, open_result
from app.stored_tensors import FLOAT_NAMES, find_tensor, find_tensors
from ihvp.errors import InvalidReference, InvalidTensor, ProjectionMismatch
from ihvp.models.architectures import num_elements
from ihvp.references import ModelRef, TensorName
from ihvp.results import X_TENSOR
from ihvp.sources.sources import Sources
from ihvp.wire import ProjectionView

if TYPE_CHECKING:
    from app.results import StoredResult
    from app.services import Services
    from app.stored_tensors import StoredTensor
    from ihvp.jobs.submission import ResolvedModel
    from ihvp.models.spec import LayoutEntry

__all__ = ["Projection", "open_projection"]

PLACE: Final = "projection"


@dataclass(frozen=True)
class Projection:
    """A result and the rows that it is to be multiplied with, none of them read yet."""

    result: StoredResult
    model: ResolvedModel
    rows: TensorName
    held: HeldBlobs

    @property
    def etag(self) -> str:
        """Results and blobs never change, and so the products of two do not."""
        of = hashlib.sha256(f"{self.result.digest} {self.rows}".encode()).hexdigest()
        return f'"{of}-projection"'

    async def view(self, services: Services) -> ProjectionView:
        """The products; see ``open_projection``.

        Raises:
            InvalidTensor: The blob is neither npy nor safetensors, or holds no floating-point numbers.
            ProjectionMismatch: Its rows have not as many numbers as the solutions, or the products are too many.
        """
        left = _whole(self.result.file.tensors[X_TENSOR])
        right = await self._right(services, left.width)
        most = services.settings.max_inline_elements
        if left.count * right.count > most:
            raise ProjectionMismatch(
                "There are too many dot products for one answer.",
                given=f"{left.count} solutions times {right.count} rows",
                allowed=f"{most} products",
                hint="Send fewer rows at a time.",
            )
        dots = await anyio.to_thread.run_sync(dot_products, left, right, limiter=services.projectors)
        return ProjectionView(
            dots=dots,
            shape=[left.count, right.count],
            projection=str(self.rows),
            job_id=self.result.job_id,
            digest=self.result.digest,
        )

    async def _right(self, services: Services, width: int) -> FlatRows:
        files = ReferencedFiles(self.held, Sources.to_look(services.settings))
        source = self.rows.source
        tensors = await anyio.to_thread.run_sync(partial(find_tensors, files, source, place=PLACE))
        if self.rows.name is None and len(tensors) > 1 and PLACE not in tensors:
            return _joined(tensors, await _layout(services, self.model))
        found = partial(find_tensor, files, str(self.rows), place=PLACE, name=PLACE)
        return _one(await anyio.to_thread.run_sync(found), width)


async def open_projection(services: Services, job_id: str, reference: str) -> Projection:
    """The dot products ``[k, m]`` of a job's solutions with the rows of a blob, still to be made.

    Args:
        services: Of the request's tenant.
        job_id: The job.
        reference: A blob with one tensor ``[m, p]`` or ``[p]``, or with one a parameter, each ``[m, *shape]`` or of
            its shape; of a blob with others, the tensor is named behind ``#``.

    Raises:
        IhvpError: As ``finished_job``.
        InvalidReference: It is no reference to a blob.
        UnknownBlob: The caller has no such blob.
    """
    wanted = TensorName.parse(reference)
    if wanted.digest is None:
        raise InvalidReference(
            "A projection is a blob.", given=reference[:200], allowed="sha256:<64 hex> or sha256:<64 hex>#<name>"
        )
    job = (await finished_job(services, job_id)).job
    result = await open_result(services, job_id)
    return Projection(result, job.request.model, wanted, await held_blobs(services, [wanted.digest]))


async def _layout(services: Services, model: ResolvedModel) -> list[LayoutEntry]:
    if model.reference is not None:
        return (await services.models.get(ModelRef.parse(model.reference))).layout
    files = ReferencedFiles(services.blobs, Sources.to_look(services.settings))
    inspect = partial(inspect_model, model.spec, files, services.settings)
    return (await look(services, inspect, files, model.spec.source_uris())).layout


def _whole(tensor: StoredTensor) -> FlatRows:
    count = tensor.shape[0] if len(tensor.shape) == 2 else 1
    return FlatRows(tensor.open, count, [RowPart(tensor.header, tensor.shape[-1])])


def _one(tensor: StoredTensor, width: int) -> FlatRows:
    _check_numbers(tensor)
    if len(tensor.shape) not in (1, 2) or tensor.shape[-1] != width or 0 in tensor.shape:
        raise ProjectionMismatch(
            f"Each row of a projection has as many numbers as a solution, p = {width}.",
            given=f"{tensor.dtype} {list(tensor.shape)}",
            allowed=f"[{width}] or [m, {width}], or one tensor a parameter",
        )
    return _whole(tensor)


def _joined(tensors: dict[str, StoredTensor], layout: list[LayoutEntry]) -> FlatRows:
    """Rows made of one tensor a parameter: each of its shape, or each with the same leading m."""
    names = {entry.name for entry in layout}
    faults = [f"{name} is no parameter" for name in tensors if name not in names]
    counts: set[int | None] = set()
    parts: list[RowPart] = []
    for entry in layout:
        tensor, shape = tensors.get(entry.name), tuple(entry.shape)
        if tensor is None:
            faults.append(f"{entry.name} is missing")
            continue
        _check_numbers(tensor)
        if tensor.shape != shape and tensor.shape[1:] != shape:
            faults.append(f"{entry.name} has shape {list(tensor.shape)} instead of {list(shape)} or [m, …] of it")
            continue
        counts.add(None if tensor.shape == shape else tensor.shape[0])
        parts.append(RowPart(tensor.header, num_elements(shape)))
    if faults or len(counts) != 1 or 0 in counts:
        raise ProjectionMismatch(
            "The tensors of the projection are not those of the model's parameters.",
            given="; ".join(faults[:5]) or f"tensors of {sorted(map(str, counts))} rows",
            allowed="one tensor [p] or [m, p]; or one a parameter, each of its shape or with the same leading m",
            hint="Name one tensor of several behind the digest: sha256:<64 hex>#<name>.",
        )
    return FlatRows(next(iter(tensors.values())).open, counts.pop() or 1, parts)


def _check_numbers(tensor: StoredTensor) -> None:
    if not tensor.is_floating:
        raise InvalidTensor(
            "A projection is made of floating-point numbers.",
            given=f"{tensor.label} {tensor.dtype}",
            allowed=FLOAT_NAMES,
        )
