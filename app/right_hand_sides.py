"""Right-hand sides as they are submitted: checked against the model, and inline ones stored as a blob."""

from __future__ import annotations

import io
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.model_inspection import architecture_of
from app.points import check_points
from app.stored_tensors import FLOAT_NAMES, StoredTensor, find_tensor, find_tensors
from ihvp.errors import InvalidTensor, NonFiniteRhs, RhsShapeMismatch
from ihvp.jobs.submission import GradientOf, ResolvedModel, ResolvedRhs, RhsSpec
from ihvp.references import TensorName
from ihvp.tensors import write_safetensors

if TYPE_CHECKING:
    from app.referenced_files import ReferencedFiles
    from ihvp.models.spec import LayoutEntry
    from ihvp.settings import Settings

__all__ = ["RhsTarget", "resolve_rhs"]

RHS_TENSOR: Final = "rhs"


@dataclass(frozen=True)
class RhsTarget:
    """What a right-hand side has to fit."""

    model: ResolvedModel
    layout: list[LayoutEntry]

    @property
    def num_params(self) -> int:
        """The length p of a row."""
        return self.model.num_params

    @property
    def hint(self) -> str:
        """Where the caller can read what p numbers are wanted."""
        if self.model.reference is None:
            return "b lists the parameters of the spec in the order of the architecture, each flattened row by row."
        return f"The layout of b is at /v1/models/{self.model.reference.replace('@', '/')}."


def resolve_rhs(
    spec: RhsSpec, files: ReferencedFiles, target: RhsTarget, settings: Settings, *, store: bool = True
) -> ResolvedRhs:
    """Checks the right-hand sides; reads and writes files, so call it in a thread.

    Args:
        spec: What was sent.
        files: Where tensors are.
        target: What they have to fit.
        settings: Bounds.
        store: Whether inline ones are stored; else they are only checked.

    Raises:
        RhsShapeMismatch: A row has not p numbers, or there are no rows or too many.
        NonFiniteRhs: It holds NaN or infinity, or does in the model's dtype.
        InvalidInput: What it refers to is not there or does not fit.
    """
    pins = files.pin(spec.source_uris(), spec.sources)
    if spec.inline is not None:
        numbers, shape = _read_inline(spec.inline, target, settings)
        return ResolvedRhs(blob=_write(numbers, shape, files) if store else None, shape=list(shape))
    if spec.blob is not None:
        shape = _blob_shape(spec.blob, files, target)
        _check_rows(shape, target, settings)
        return ResolvedRhs(blob=spec.blob, shape=list(shape), sources=pins)
    assert spec.gradient_of is not None  # noqa: S101
    shape = _gradients(spec.gradient_of, files, target, settings)
    return ResolvedRhs(gradient_of=spec.gradient_of, shape=list(shape), sources=pins)


def _read_inline(
    rows: list[float] | list[list[float]], target: RhsTarget, settings: Settings
) -> tuple[array[float], tuple[int, ...]]:
    """The numbers in the model's dtype, and their shape."""
    flat: list[float] = []
    if rows and isinstance(rows[0], list):
        lengths = [len(row) for row in rows if isinstance(row, list)]
        if len(set(lengths)) > 1:
            odd = next(i for i, length in enumerate(lengths) if length != lengths[0])
            raise RhsShapeMismatch(
                "The rows of the right-hand side differ in length.",
                given=f"row 0 has {lengths[0]} numbers, row {odd} has {lengths[odd]}",
                allowed=f"[k, p] with p = {target.num_params}",
                hint=target.hint,
            )
        shape: tuple[int, ...] = (len(rows), lengths[0])
        _check_rows(shape, target, settings)
        for row in rows:
            flat.extend(row if isinstance(row, list) else [row])
    else:
        shape = (len(rows),)
        _check_rows(shape, target, settings)
        flat.extend(number for number in rows if not isinstance(number, list))
    single = target.model.spec.dtype == "float32"
    numbers = array("f" if single else "d", flat)
    _check_finite(flat, numbers, target)
    return numbers, shape


def _check_rows(shape: tuple[int, ...], target: RhsTarget, settings: Settings) -> None:
    p = target.num_params
    if len(shape) not in (1, 2) or shape[-1] != p:
        raise RhsShapeMismatch(
            f"The model has p = {p} parameters, and each right-hand side needs as many numbers.",
            given=f"{shape[-1] if shape else 1} numbers a right-hand side (shape {list(shape)})",
            allowed=f"[p] or [k, p] with p = {p}",
            hint=target.hint,
        )
    if len(shape) == 2 and not 1 <= shape[0] <= settings.max_rhs_columns:
        raise RhsShapeMismatch(
            "A job solves for one right-hand side at least, and for a bounded number of them.",
            given=f"{shape[0]} right-hand sides",
            allowed=f"1 to {settings.max_rhs_columns}",
            hint="Split them over several jobs." if shape[0] else None,
        )


def _check_finite(sent: list[float], numbers: array[float], target: RhsTarget) -> None:
    if all(map(math.isfinite, numbers)):
        return
    at = next(i for i, number in enumerate(numbers) if not math.isfinite(number))
    overflow = math.isfinite(sent[at])
    dtype = target.model.spec.dtype
    raise NonFiniteRhs(
        f"The right-hand side holds a number that is not finite in {dtype}."
        if overflow
        else "The right-hand side holds a number that is not finite.",
        given=f"{sent[at]} at row {at // target.num_params}, place {at % target.num_params}",
        allowed=f"finite numbers of {dtype}",
        hint="Scale b, or register the model with dtype float64."
        if overflow
        else "Look for an overflow where b is made.",
    )


def _write(numbers: array[float], shape: tuple[int, ...], files: ReferencedFiles) -> str:
    buffer = io.BytesIO()
    write_safetensors(buffer, {RHS_TENSOR: (numbers, shape)})
    with files.writer() as writer:
        writer.write(buffer.getvalue())
        return writer.commit().digest


def _blob_shape(reference: str, files: ReferencedFiles, target: RhsTarget) -> tuple[int, ...]:
    name = TensorName.parse(reference)
    if name.name is None:
        tensors = find_tensors(files, name.source, place="rhs.blob")
        if len(tensors) > 1 or set(tensors) == {entry.name for entry in target.layout}:
            return _joined_shape(tensors, target)
    tensor = find_tensor(files, reference, place="rhs.blob", name=RHS_TENSOR)
    _check_numbers(tensor)
    return tensor.shape


def _joined_shape(tensors: dict[str, StoredTensor], target: RhsTarget) -> tuple[int, ...]:
    """The shape of b made of one tensor a parameter: each of its shape, or each with the same leading k."""
    names = {entry.name for entry in target.layout}
    faults = [f"{name} is no parameter" for name in tensors if name not in names]
    columns: set[int | None] = set()
    for entry in target.layout:
        tensor, wanted = tensors.get(entry.name), tuple(entry.shape)
        if tensor is None:
            faults.append(f"{entry.name} is missing")
        elif tensor.shape == wanted:
            columns.add(None)
        elif tensor.shape[1:] == wanted and len(tensor.shape) == len(wanted) + 1:
            columns.add(tensor.shape[0])
        else:
            faults.append(f"{entry.name} has shape {list(tensor.shape)} instead of {list(wanted)} or [k, …] of it")
    if faults or len(columns) != 1:
        given = "; ".join(faults[:5]) or f"tensors of {sorted(map(str, columns))} right-hand sides"
        raise RhsShapeMismatch(
            "The tensors of b are not those of the model's parameters.",
            given=given + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""),
            allowed="one tensor [p] or [k, p]; or one a parameter, each of its shape or with the same leading k",
            hint=target.hint,
        )
    for tensor in tensors.values():
        _check_numbers(tensor)
    rows = columns.pop()
    return (target.num_params,) if rows is None else (rows, target.num_params)


def _check_numbers(tensor: StoredTensor) -> None:
    if not tensor.is_floating:
        raise InvalidTensor(
            "A right-hand side is made of floating-point numbers.",
            given=f"{tensor.label} {tensor.dtype}",
            allowed=FLOAT_NAMES,
        )
    if tensor.is_small and not tensor.is_finite():
        raise NonFiniteRhs(
            "The right-hand side holds a number that is not finite.",
            given=f"NaN or infinity in {tensor.label}",
            allowed="finite numbers",
            hint="Look for an overflow or a division by zero where b is made.",
        )


def _gradients(points: GradientOf, files: ReferencedFiles, target: RhsTarget, settings: Settings) -> tuple[int, int]:
    spec = target.model.spec
    rows = check_points(points, files, spec.loss, architecture_of(spec, settings), place="rhs.gradient_of")
    shape = (rows, target.num_params)
    _check_rows(shape, target, settings)
    return shape
