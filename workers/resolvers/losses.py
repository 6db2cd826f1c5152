"""Losses from their specs, and the module's outputs in the form each loss takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ihvp.errors import LossMismatch
from ihvp.models.losses import LossSpec, check_loss
from workers.resolvers.loss_plugins import build_plugin_loss

__all__ = ["build_loss", "check_outputs", "classes_come_last", "classes_second"]


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
        UnknownLoss: It is a plug-in that is not installed here.
        LossMismatch: It has no such option, or a plug-in refuses its config.
    """
    # A name that the worker has no plug-in for is refused below, with what is installed here.
    check_loss(spec, extra=(spec.type,))
    if spec.is_plugin:
        return build_plugin_loss(spec)
    if spec.type == "cross_entropy":
        # Where none is ignored torch's own default stands, a value that the check of the targets refuses.
        ignored = -100 if spec.ignore_index is None else spec.ignore_index
        return nn.CrossEntropyLoss(label_smoothing=spec.label_smoothing, ignore_index=ignored)
    if spec.type == "mse":
        return nn.MSELoss()
    return nn.BCEWithLogitsLoss(pos_weight=None if spec.pos_weight is None else torch.tensor(spec.pos_weight).double())


def check_outputs(spec: LossSpec, outputs: Tensor) -> None:
    """Checks a loss' options against what the model returns.

    Raises:
        LossMismatch: ``pos_weight`` has another length than the outputs; torch might broadcast it.
    """
    wanted = outputs.shape[-1] if outputs.ndim > 1 else 1
    if spec.pos_weight is not None and len(spec.pos_weight) not in (1, wanted):
        raise LossMismatch(
            "pos_weight has one number for each output, or one for all.",
            given=f"{len(spec.pos_weight)} numbers",
            allowed=f"1 or {wanted}",
        )


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
