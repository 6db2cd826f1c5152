"""Cross-entropy and negative log-likelihood, with class weights, ignored targets and label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ihvp.errors import LossMismatch, TargetsOutOfRange
from solvers.losses.likelihood import OutputCurvature, Uniform

__all__ = ["CrossEntropyTerms"]


@dataclass(frozen=True)
class CrossEntropyTerms:
    """Σ weighted losses / Σ weights of the targets that count, over the whole data set.

    torch divides each batch by its own sum of weights; adding such batches up by their size would give an
    answer that depends on the batching. A point's own loss is still the loss on a batch of one, in which
    a single target's weight cancels; a point whose targets are all ignored has the loss 0.

    Args:
        kind: Whether the outputs are logits (``cross_entropy``) or log-probabilities (``nll``).
        weight: Class weights ``[c]``, or None.
        ignore_index: The class index that marks a target as not counting.
        label_smoothing: Share of the target spread evenly over the classes.
        mean: Whether the loss averages; else it sums, and the data set's loss is the mean over points.
    """

    kind: Literal["cross_entropy", "nll"] = "cross_entropy"
    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    mean: bool = True

    @property
    def description(self) -> str:
        """One line on how the loss normalises."""
        if not self.mean:
            return f"{self.kind}: sum over the targets of a point, mean over points"
        return f"{self.kind}: sum over all targets that count / sum of their class weights"

    def check(self, output: Tensor, target: Tensor) -> None:
        """Refuses shapes that do not go together and classes that do not exist."""
        if output.ndim < 2:
            raise LossMismatch(
                f"{self.kind} needs one output a class.",
                given=f"outputs {list(output.shape)}",
                allowed="outputs [n, classes] or [n, classes, ...]",
            )
        if target.is_floating_point():
            self._check_probabilities(output, target)
        else:
            self._check_indices(output, target)

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        """The weighted sum over the targets of the batch."""
        return self._elements(output, target).sum()

    def denominator(self, output: Tensor, target: Tensor) -> float:
        """The sum of the weights of the targets that count."""
        if not self.mean:
            return float(output.shape[0])
        return float(self._weights(output, target).double().sum())

    def numerators(self, output: Tensor, target: Tensor) -> Tensor:
        """The weighted sum over the targets of each point, ``[m]``."""
        return self._elements(output, target).reshape(output.shape[0], -1).sum(dim=1)

    def denominators(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum of the weights of each point's targets that count, ``[m]``."""
        if not self.mean:
            return output.new_ones(output.shape[0])
        return self._weights(output, target).reshape(output.shape[0], -1).sum(dim=1)

    def per_point(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each point as a batch of one, ``[m]``."""
        sums = self.numerators(output, target)
        if not self.mean:
            return sums
        weights = self.denominators(output, target)
        counts = weights != 0
        return torch.where(counts, sums / torch.where(counts, weights, 1.0), 0.0)

    def expected_curvature(self, output: Tensor, target: Tensor) -> OutputCurvature:
        """Weights · (diag(p) − p pᵀ) for each prediction p: the loss's own second derivative in the logits.

        Log-probabilities are logits too, for log-softmax leaves them as they are.

        Raises:
            LossMismatch: The outputs of an ``nll`` are no log-probabilities.
        """
        p = self._probabilities(output)
        weighted = self._curvature_weights(output, target).unsqueeze(1) * p
        return lambda t: weighted * (t - (p * t).sum(dim=1, keepdim=True))

    def sampled_score(self, output: Tensor, target: Tensor, uniform: Uniform) -> Tensor:
        """√weight · (p − e) for a class e drawn from each prediction p."""
        p = self._probabilities(output)
        cumulated = p.double().cumsum(dim=1)
        # Below the total as it was rounded, so that no class beyond the last is drawn.
        drawn = uniform((p.shape[0], *p.shape[2:])).unsqueeze(1) * cumulated[:, -1:]
        classes = (cumulated <= drawn).sum(dim=1, keepdim=True).clamp(max=p.shape[1] - 1)
        weight = self._curvature_weights(output, target).unsqueeze(1)
        return weight.sqrt() * (p - torch.zeros_like(p).scatter_(1, classes, 1.0))

    def sampled_curvature(self, output: Tensor, target: Tensor, uniform: Uniform) -> OutputCurvature:
        """The squares of these scores, one a prediction."""
        score = self.sampled_score(output, target, uniform)
        return lambda t: score * (score * t).sum(dim=1, keepdim=True)

    def _probabilities(self, output: Tensor) -> Tensor:
        p = output.softmax(dim=1)
        if self.kind == "nll":
            off = float(output.logsumexp(dim=1).abs().max())
            if not off <= torch.finfo(output.dtype).eps ** 0.5:
                raise LossMismatch(
                    "nll is a likelihood of log-probabilities, and these outputs are none.",
                    given=f"exp(outputs) sum to e^{off:.3g} or e^-{off:.3g}",
                    allowed="outputs of log_softmax",
                    hint="End the model in log_softmax, or give its logits to cross_entropy.",
                )
        return p

    def _curvature_weights(self, output: Tensor, target: Tensor) -> Tensor:
        """What −log p counts with in the numerator, whatever its class: all have the same second derivative."""
        smoothing, classes = self.label_smoothing, output.shape[1]
        weight = output.new_ones(classes) if self.weight is None else self.weight.to(output)
        if target.is_floating_point():
            shares = torch.einsum("c,nc...->n...", weight, target.to(output))
            return (1 - smoothing) * shares + smoothing * weight.mean()
        counts = target != self.ignore_index
        return counts * ((1 - smoothing) * weight[torch.where(counts, target, 0)] + smoothing * weight.mean())

    def _elements(self, output: Tensor, target: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(output)
        if target.is_floating_point():
            return F.cross_entropy(
                output, target, weight=weight, reduction="none", label_smoothing=self.label_smoothing
            )
        if self.kind == "nll":
            return F.nll_loss(output, target, weight=weight, ignore_index=self.ignore_index, reduction="none")
        return F.cross_entropy(
            output,
            target,
            weight=weight,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def _weights(self, output: Tensor, target: Tensor) -> Tensor:
        """What each target adds to torch's divisor; 1 for class probabilities, as torch has it."""
        if target.is_floating_point():
            return output.new_ones((output.shape[0], *output.shape[2:]))
        counts = target != self.ignore_index
        if self.weight is None:
            return counts.to(output.dtype)
        return self.weight.to(output)[torch.where(counts, target, 0)] * counts

    def _check_probabilities(self, output: Tensor, target: Tensor) -> None:
        if self.kind == "nll" or target.shape != output.shape:
            raise LossMismatch(
                f"{self.kind} takes floating-point targets as class probabilities, and these are not.",
                given=f"outputs {list(output.shape)}, targets {list(target.shape)} {target.dtype}",
                allowed="integer class indices [n, ...]"
                + ("" if self.kind == "nll" else " or probabilities of the shape of the outputs"),
                hint="Class labels must have an integer dtype: targets.long().",
            )

    def _check_indices(self, output: Tensor, target: Tensor) -> None:
        expected = (output.shape[0], *output.shape[2:])
        if target.shape != expected:
            raise LossMismatch(
                f"{self.kind} needs one class index a prediction; dimension 1 of the outputs is the class.",
                given=f"outputs {list(output.shape)}, targets {list(target.shape)}",
                allowed=f"targets {list(expected)}",
                hint="Outputs [n, t, classes] of a sequence model want their last two dimensions swapped.",
            )
        classes = output.shape[1]
        wrong = target[(target != self.ignore_index) & ((target < 0) | (target >= classes))]
        if wrong.numel():
            raise TargetsOutOfRange(
                f"{wrong.numel()} targets are not classes of the model.",
                given=f"class {int(wrong.flatten()[0])}",
                allowed=f"0 to {classes - 1}",
            )
