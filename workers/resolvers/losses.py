"""Losses from their specs, and the module's outputs in the form each loss takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ihvp.errors import LossMismatch
from ihvp.models.spec import LossSpec

__all__ = ["build_loss", "classes_come_last", "classes_second"]


def classes_second(module: nn.Module) -> nn.Module:
    """Moves a module's classes from the last place to the second, where cross-entropy looks for them.

    A hook, not a module around it: the parameters keep the names that callers know them by.

    Args:
        module: Maps to logits ``[n, ..., classes]``; changed.

    Returns:
        The same module, which now maps to ``[n, classes, ...]``.
    """
    module.register_forward_hook(lambda _module, _inputs, logits: torch.movedim(logits, -1, 1))
    return module


def build_loss(spec: LossSpec) -> nn.Module:
    """The loss as a torch module that averages over the points.

    Raises:
        LossMismatch: Label smoothing or an ignored class is asked of a loss that has no classes.
    """
    if spec.type == "cross_entropy":
        # Where none is ignored torch's own default stands, a value that the check of the targets refuses.
        ignored = -100 if spec.ignore_index is None else spec.ignore_index
        return nn.CrossEntropyLoss(label_smoothing=spec.label_smoothing, ignore_index=ignored)
    if spec.label_smoothing or spec.ignore_index is not None:
        raise LossMismatch(
            "Only cross_entropy has label_smoothing and ignore_index.",
            given=spec.type,
            hint="Leave them out, or use cross_entropy.",
        )
    return nn.MSELoss() if spec.type == "mse" else nn.BCEWithLogitsLoss()


def classes_come_last(spec: LossSpec, outputs: Tensor, targets: Tensor) -> bool:
    """Whether a module's logits are ``[n, ..., classes]`` with more than one prediction a point.

    torch wants ``[n, classes, ...]``; sequence models give the classes last. Where the shapes allow both,
    torch's order is taken, which a plug-in can rely on.

    Args:
        spec: The loss.
        outputs: Some of the module's outputs.
        targets: Their targets.
    """
    if spec.type != "cross_entropy" or outputs.ndim < 3:
        return False
    torch_order = targets.shape == (outputs.shape[0], *outputs.shape[2:])
    return targets.shape == outputs.shape[:-1] and not torch_order
