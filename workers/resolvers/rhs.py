"""Right-hand sides: from a blob in one of its forms, or as gradients of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ihvp.errors import NonFiniteRhs, RhsShapeMismatch
from ihvp.jobs.submission import ResolvedRhs
from ihvp.references import TensorName
from workers.resolvers.files import FileAccess
from workers.resolvers.mapping import map_tensors, pick_tensor
from workers.resolvers.model import LoadedModel

__all__ = ["resolve_rhs"]


def resolve_rhs(files: FileAccess, rhs: ResolvedRhs, model: LoadedModel) -> Tensor:
    """The rows b as ``[p]`` or ``[k, p]``, in the model's dtype.

    Args:
        files: Where the tensors are.
        rhs: What was submitted.
        model: The model, whose layout and loss are asked for.

    Raises:
        RhsShapeMismatch: b has not p numbers a row, or not the shape that was promised at submit.
        NonFiniteRhs: It holds NaN or infinity.
        InvalidTensor: The blob holds no such tensor.
        InvalidInput: A gradient cannot be taken at the points given.
    """
    if rhs.gradient_of is not None:
        b = model.gradients(files, rhs.gradient_of)
    else:
        b = _from_blob(files, str(rhs.blob), model)
    p = model.num_params
    if b.ndim not in (1, 2) or b.shape[-1] != p or list(b.shape) != rhs.shape:
        raise RhsShapeMismatch(
            f"The model has {p} parameters, and b does not fit them.",
            given=str(list(b.shape)),
            allowed=str(rhs.shape) if rhs.shape[-1] == p else f"[{p}] or [k, {p}]",
            hint="The model's layout says where each parameter stands.",
        )
    finite = torch.isfinite(b)
    if not bool(finite.all()):
        where = [int(i) for i in (~finite).nonzero()[0]]
        raise NonFiniteRhs("b holds NaN or infinity.", given=f"{b[tuple(where)].item()} at {where}")
    return b


def _from_blob(files: FileAccess, reference: str, model: LoadedModel) -> Tensor:
    name = TensorName.parse(reference)
    tensors = map_tensors(files, name.source)
    one_each = len(tensors) > 1 or set(tensors) == {entry for entry, _ in model.layout}
    if name.name is None and one_each:
        return _joined(tensors, model)
    return pick_tensor(tensors, name, "b").to(model.dtype)


def _joined(tensors: dict[str, Tensor], model: LoadedModel) -> Tensor:
    """One tensor a parameter, each ``[*shape]`` or ``[k, *shape]``, as rows in the order of the layout."""
    faults = [f"{name} is missing" for name, _ in model.layout if name not in tensors]
    names = {name for name, _ in model.layout}
    faults += [f"{name} is no parameter" for name in tensors if name not in names]
    columns: set[int | None] = set()
    for name, shape in model.layout:
        if name not in tensors:
            continue
        found = tuple(tensors[name].shape)
        if found == shape:
            columns.add(None)
        elif found[1:] == shape and len(found) == len(shape) + 1:
            columns.add(found[0])
        else:
            faults.append(f"{name} has shape {list(found)} instead of {list(shape)} or [k, …] of it")
    if faults or len(columns) != 1:
        given = "; ".join(faults[:5]) or f"tensors of {sorted(map(str, columns))} right-hand sides"
        raise RhsShapeMismatch(
            "The tensors of b are not those of the model's parameters.",
            given=given + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""),
            allowed="one tensor a parameter, each of its shape, or each with the same leading k",
        )
    lead = () if columns == {None} else (columns.pop(),)
    return torch.cat([tensors[name].to(model.dtype).reshape(*lead, -1) for name, _ in model.layout], dim=-1)
