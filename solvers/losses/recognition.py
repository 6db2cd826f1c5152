"""Which losses are known, and what they are known to do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import LossMismatch
from solvers.losses.assumed import try_out
from solvers.losses.cross_entropy import CrossEntropyTerms
from solvers.losses.declared import DeclaredTerms
from solvers.losses.elementwise import ElementwiseTerms, bernoulli, gaussian
from solvers.losses.terms import LossTerms, NormalisedLoss

__all__ = ["loss_terms"]

Function = Callable[..., Tensor]

MODULES: Final[Mapping[type[nn.Module], tuple[Function, tuple[str, ...]]]] = {
    nn.CrossEntropyLoss: (F.cross_entropy, ("weight", "ignore_index", "label_smoothing")),
    nn.NLLLoss: (F.nll_loss, ("weight", "ignore_index")),
    nn.MSELoss: (F.mse_loss, ()),
    nn.L1Loss: (F.l1_loss, ()),
    nn.SmoothL1Loss: (F.smooth_l1_loss, ("beta",)),
    nn.HuberLoss: (F.huber_loss, ("delta",)),
    nn.BCELoss: (F.binary_cross_entropy, ("weight",)),
    nn.BCEWithLogitsLoss: (F.binary_cross_entropy_with_logits, ("weight", "pos_weight")),
}
"""torch's loss modules: the function of each and the attributes that are its arguments."""


def loss_terms(loss: Any, output: Tensor, target: Tensor) -> LossTerms:
    """How a loss normalises.

    torch's losses are known, as modules, as functions, and as :func:`functools.partial` of these. A loss with
    ``numerator`` and ``denominator`` methods is taken at its word. Any other callable is tried out on the
    batch given.

    Args:
        loss: ``loss(output, target) -> scalar``.
        output: A batch of the model's outputs ``[m, ...]``.
        target: Their targets ``[m, ...]``.

    Raises:
        LossMismatch: The loss does not reduce to a scalar, or is neither a mean nor a sum over points.
    """
    known = _known(loss)
    if known is not None:
        return known
    if isinstance(loss, NormalisedLoss):
        return DeclaredTerms(loss)
    return try_out(loss, output, target)


def _known(loss: Any) -> LossTerms | None:
    # The exact class: a subclass may have its own forward.
    if isinstance(loss, nn.Module) and type(loss) in MODULES:
        function, names = MODULES[type(loss)]
        arguments = {name: getattr(loss, name) for name in names}
        return _of_function(function, {**arguments, "reduction": loss.reduction})
    if isinstance(loss, functools.partial) and not loss.args:
        return _of_function(loss.func, loss.keywords)
    return _of_function(loss, {})


def _of_function(function: Any, arguments: Mapping[str, Any]) -> LossTerms | None:
    names = next((names for known, names in MODULES.values() if known is function), None)
    if names is None or not set(arguments) <= {*names, "reduction"}:
        return None
    options = dict(arguments)
    reduction = options.pop("reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise LossMismatch(
            "The loss of a batch must be a scalar.",
            given=f"reduction={reduction!r}",
            allowed="reduction='mean' or 'sum'",
        )
    mean = reduction == "mean"
    if function is F.cross_entropy:
        return CrossEntropyTerms("cross_entropy", mean=mean, **options)
    if function is F.nll_loss:
        return CrossEntropyTerms("nll", mean=mean, **options)
    if function is F.mse_loss:
        return gaussian(mean=mean)

    def elements(output: Tensor, target: Tensor) -> Tensor:
        moved = {k: v.to(output) if isinstance(v, Tensor) else v for k, v in options.items()}
        return function(output, target, reduction="none", **moved)  # type: ignore[no-any-return]

    if function is F.binary_cross_entropy_with_logits:
        return bernoulli(elements, options.get("weight"), options.get("pos_weight"), mean=mean)
    return ElementwiseTerms(function.__name__, elements, mean=mean)
