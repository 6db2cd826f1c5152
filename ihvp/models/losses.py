"""Losses as callers name them: built in, or an operator's plug-ins."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.errors import LossMismatch, UnknownLoss

__all__ = ["LOSSES", "LOSS_ENTRY_POINTS", "LossSpec", "check_loss", "loss_names"]

LOSSES: Final = ("cross_entropy", "mse", "bce_with_logits")
LOSS_ENTRY_POINTS: Final = "ihvp.losses"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LossSpec(BaseModel):
    """The loss, averaged over the training points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str = Field(
        min_length=1,
        max_length=200,
        examples=list(LOSSES),
        description=f"{', '.join(LOSSES)}, or the name of a plug-in that the operator has installed.",
    )
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, strict=True, description="cross_entropy only.")
    ignore_index: int | None = Field(
        None, ge=-(2**63), lt=2**63, strict=True, description="cross_entropy only: targets that do not count."
    )
    pos_weight: Annotated[list[Positive], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="bce_with_logits only: what a target of 1 counts, for each output or for all alike."
    )
    config: dict[str, Any] = Field(default_factory=dict, description="Of a plug-in, which checks it in the worker.")

    @property
    def is_plugin(self) -> bool:
        """Whether it is an operator's."""
        return self.type not in LOSSES

    @property
    def whole_targets(self) -> bool:
        """Whether targets that are whole numbers stay so: classes, or whatever a plug-in takes."""
        return self.type == "cross_entropy" or self.is_plugin


def loss_names(extra: tuple[str, ...] = ()) -> list[str]:
    """All losses that may be named: built-in, installed plug-ins (not imported), and ``extra``."""
    return [*LOSSES, *sorted({point.name for point in entry_points(group=LOSS_ENTRY_POINTS)} | {*extra} - {*LOSSES})]


def check_loss(loss: LossSpec, extra: tuple[str, ...] = ()) -> None:
    """Checks a loss' name, and its options against its type.

    Args:
        loss: The loss.
        extra: Plug-ins that are known to be installed elsewhere.

    Raises:
        UnknownLoss: Neither built in nor installed.
        LossMismatch: It has no such option.
    """
    if loss.is_plugin and loss.type not in loss_names(extra):
        raise UnknownLoss(
            "No loss has this name.",
            given=loss.type[:100],
            allowed=", ".join(loss_names(extra)),
            hint=f"An operator adds one with a package that has an entry point in {LOSS_ENTRY_POINTS!r}.",
        )
    if loss.type != "cross_entropy" and (loss.label_smoothing or loss.ignore_index is not None):
        raise _no_option("Only cross_entropy has label_smoothing and ignore_index.", loss, "cross_entropy")
    if loss.type != "bce_with_logits" and loss.pos_weight is not None:
        raise _no_option("Only bce_with_logits has pos_weight.", loss, "bce_with_logits")
    if loss.config and not loss.is_plugin:
        raise _no_option("Only plug-ins have a config.", loss, "its own fields")


def _no_option(message: str, loss: LossSpec, instead: str) -> LossMismatch:
    return LossMismatch(message, given=loss.type[:100], hint=f"Leave it out, or use {instead}.")
