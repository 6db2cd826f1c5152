"""Losses that an operator adds: found by entry point, loaded in the worker child only."""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

from pydantic import BaseModel
from torch import nn

from ihvp.errors import LossMismatch, UnknownLoss
from ihvp.models.losses import LOSS_ENTRY_POINTS, LossSpec, loss_names
from workers.plugins import PluginGroup

__all__ = ["LossPlugin", "build_plugin_loss"]


@runtime_checkable
class LossPlugin(Protocol):
    """What an entry point in the group ``ihvp.losses`` has to offer: a module, a class or an object.

    The entry point's name is the ``type`` under which callers name the loss::

        [project.entry-points."ihvp.losses"]
        "focal" = "our_losses.focal"

    The loss is called with the model's outputs ``[m, ...]`` and targets ``[m, ...]``: floating-point ones in the
    model's dtype, whole numbers as int64. It returns a scalar, which is the mean over the points of the batch (tried
    on a sample of every batch, and refused if it is not), or it has the methods ``numerator(outputs, targets)`` and
    ``denominator(outputs, targets)``, each a scalar that adds up over batches: masks and class weights need them. A
    point's own loss is what it gives for a batch of one. Its parameters, if it has any, are constants.

    Attributes:
        config: The pydantic model that a caller's ``loss.config`` is checked against. Forbid extra fields
            (``extra="forbid"``), or a misspelt field is ignored in silence.
        build: Makes the loss from a checked config; must not read the network.
    """

    config: type[BaseModel]

    def build(self, config: Any, /) -> nn.Module:
        """The loss: ``(outputs, targets) -> scalar``."""


_GROUP: Final = PluginGroup(LOSS_ENTRY_POINTS, LossPlugin, "loss", UnknownLoss, LossMismatch)


def build_plugin_loss(spec: LossSpec) -> nn.Module:
    """The loss of a plug-in.

    Raises:
        UnknownLoss: No such plug-in can be loaded.
        LossMismatch: Its config refuses these values, or building fails on them.
    """
    loss = _GROUP.build(spec.type, _GROUP.load(spec.type, loss_names()), spec.config)
    if not isinstance(loss, nn.Module):
        raise LossMismatch(f"The plug-in {spec.type!r} built a {type(loss).__name__}, not a torch.nn.Module.")
    return loss.eval().requires_grad_(requires_grad=False)
