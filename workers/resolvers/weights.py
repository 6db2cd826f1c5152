"""Trained weights from a safetensors blob, put into a module after every name and shape was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ihvp.errors import NonFiniteWeights, WeightsMismatch
from ihvp.models.spec import build_layout
from solvers.snapshot import flat_names

__all__ = ["check_finite", "check_weights", "freeze_others", "load_weights"]

_MOST_NAMED = 5
"""Faults that a message lists before it says how many more there are."""

Shapes = Sequence[tuple[str, tuple[int, ...]]]


def check_weights(expected: Shapes, weights: Mapping[str, Tensor], *, optional: Sequence[str] = ()) -> None:
    """Compares an architecture's parameters with the tensors of a file.

    Args:
        expected: Names and shapes that must be there.
        weights: The tensors, not read yet.
        optional: Names that may be there as well.

    Raises:
        WeightsMismatch: Names are missing or left over, or shapes or dtypes differ; lists the first few.
    """
    faults: list[str] = []
    for name, shape in expected:
        tensor = weights.get(name)
        if tensor is None:
            faults.append(f"{name} is missing")
        elif tuple(tensor.shape) != shape:
            faults.append(f"{name} has shape {list(tensor.shape)} instead of {list(shape)}")
    known = {name for name, _ in expected}.union(optional)
    faults += [f"{name} is no parameter of the architecture" for name in weights if name not in known]
    if faults:
        more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise WeightsMismatch(
            "The weights do not fit the architecture.",
            given="; ".join(faults[:_MOST_NAMED]) + more,
            allowed=", ".join(f"{name} {list(shape)}" for name, shape in expected[:_MOST_NAMED])
            + (", …" if len(expected) > _MOST_NAMED else ""),
            hint="Save model.state_dict() of the same architecture with safetensors.torch.save_file.",
        )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Fills a module's parameters and buffers, converts it to ``dtype`` and puts it into evaluation mode.

    Raises:
        WeightsMismatch: A tensor is missing, left over, or of another shape or kind.
        NonFiniteWeights: A tensor holds NaN or infinity.
    """
    state = module.state_dict()
    # Tied parameters have one name in named_parameters() and several in the state; files hold them once.
    names = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    expected = [(name, tuple(tensor.shape)) for name, tensor in state.items() if name in names]
    check_weights(expected, weights, optional=list(state))
    for name, tensor in weights.items():
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise WeightsMismatch(
                "A tensor of the weights has another kind of numbers than the architecture's.",
                given=f"{name}: {tensor.dtype}",
                allowed=str(state[name].dtype),
            )
    check_finite(weights)
    module.to(dtype)
    module.load_state_dict(dict(weights), strict=False)
    module.eval()


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Checks every number.

    Raises:
        NonFiniteWeights: A tensor holds NaN or infinity.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteWeights(
                "The weights hold NaN or infinity.", given=name, hint="Check that the training run converged."
            )


def freeze_others(module: nn.Module, include: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Freezes the parameters that match no pattern.

    Returns:
        The names by which callers know the others, and their shapes, in the order of the flat vectors.

    Raises:
        UnknownParameters: A pattern matches no parameter.
    """
    parameters = dict(module.named_parameters())
    known = flat_names(module)
    shapes = [(name, tuple(parameters[own].shape)) for own, name in known.items()]
    chosen = [(entry.name, tuple(entry.shape)) for entry in build_layout(shapes, include)]
    names = {name for name, _ in chosen}
    for own, parameter in parameters.items():
        parameter.requires_grad_(own in known and known[own] in names)
    return chosen
