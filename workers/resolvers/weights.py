"""Trained weights from a safetensors blob, put into a module after every name and shape was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ihvp.errors import NonFiniteWeights, WeightsMismatch
from ihvp.models.spec import build_layout

__all__ = ["check_weights", "freeze_others", "load_weights"]

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
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteWeights(
                "The weights hold NaN or infinity.", given=name, hint="Check that the training run converged."
            )
    module.to(dtype)
    module.load_state_dict(dict(weights), strict=False)
    module.eval()


def freeze_others(module: nn.Module, include: list[str]) -> list[str]:
    """Freezes the parameters that match no pattern.

    Returns:
        Names of the others, in the order of the flat vectors.

    Raises:
        UnknownParameters: A pattern matches no parameter.
    """
    build_layout([(name, tuple(p.shape)) for name, p in module.named_parameters()], include)
    chosen: list[str] = []
    for name, parameter in module.named_parameters():
        wanted = any(fnmatchcase(name, pattern) for pattern in include)
        parameter.requires_grad_(wanted)
        if wanted:
            chosen.append(name)
    return chosen
