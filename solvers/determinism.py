"""Refuses modules whose output for a point is not a function of that point and the parameters alone."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ihvp.errors import ModelInTrainingMode

__all__ = ["require_deterministic"]


def require_deterministic(model: nn.Module) -> None:
    """Checks that no part of a module draws random numbers or looks at its batch.

    Args:
        model: The module as it would be called.

    Raises:
        ModelInTrainingMode: Names the parts that would, with what to do about them.
    """
    at_fault = [(name or "model", module) for name, module in model.named_modules() if _varies(module)]
    if not at_fault:
        return
    named = ", ".join(f"{name} ({type(module).__name__})" for name, module in at_fault[:5])
    without_statistics = any(not module.training for _, module in at_fault)
    raise ModelInTrainingMode(
        "The model's output for a point would change from call to call or with its batch, so its loss has no Hessian.",
        given=named + (", …" if len(at_fault) > 5 else ""),
        hint="Batch norm needs track_running_stats=True."
        if without_statistics
        else "Call model.eval() before solving.",
    )


def _varies(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        # Without running statistics it takes the batch's own, in evaluation too.
        return module.training or module.running_mean is None
    if not module.training:
        return False
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    return isinstance(module, nn.RReLU)
