"""What H is, chunk by chunk: the Hessian, the Gauss–Newton matrix or a Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from ihvp.errors import InvalidOption, LossMismatch
from ihvp.methods import Curvature
from ihvp.methods.names import did_you_mean
from solvers.batch import Batch, moved
from solvers.losses import Likelihood, LossTerms, weighted
from solvers.losses.cross_entropy import CrossEntropyTerms
from solvers.operators.draws import uniform_of_points
from solvers.operators.gauss_newton import (
    ForwardGaussNewton,
    GraphGaussNewton,
    MappedOutput,
    Middle,
)
from solvers.operators.plan import ProductKind
from solvers.operators.products import ChunkProduct, ForwardProduct, GraphProduct, LinearizedProduct
from solvers.snapshot import ModelSnapshot

__all__ = ["ChunkCurvature", "parse_curvature"]

SECOND_DERIVATIVES: Final[dict[str, Callable[..., ChunkProduct]]] = {
    "graph": GraphProduct,
    "recomputed": GraphProduct,
    "linearized": GraphProduct,
    "forward": ForwardProduct,
}
GAUSS_NEWTON: Final[dict[str, Callable[..., ChunkProduct]]] = {
    "graph": GraphGaussNewton,
    "recomputed": GraphGaussNewton,
    "linearized": GraphGaussNewton,
    "forward": ForwardGaussNewton,
}


def parse_curvature(name: Curvature | str) -> Curvature:
    """The curvature of this name.

    Raises:
        InvalidOption: With the names that exist and the nearest of them.
    """
    try:
        return Curvature(name)
    except ValueError:
        allowed = [c.value for c in Curvature]
        raise InvalidOption(
            "No curvature has this name.",
            given=repr(name)[:80],
            allowed=", ".join(allowed),
            hint=did_you_mean(str(name), allowed),
        ) from None


@dataclass(frozen=True)
class ChunkCurvature:
    """H as Σ over chunks of a curvature, divided once, so that batching never shows.

    ``hessian`` is ∇² Σ numerator / Σ denominator. ``ggn`` is Jᵀ ∇² J over the same divisor, with J the Jacobian of
    the outputs and ∇² that of the loss in them (Schraudolph, 2002); the log-softmax before an ``nll`` belongs to
    the loss, which is linear without it. ``fisher`` has in the middle the expectation under the model's own
    prediction instead, which is the same for the losses that have one, and ``mc_fisher`` one draw of each target
    (Kunstner, Balles & Hennig, 2019, set the kinds apart). ``empirical_fisher`` is the mean over points of
    ∇ℓ ∇ℓᵀ, ℓ being the loss on a batch of one.

    A sample weight w stands for w copies of its point, in numerators and denominators alike, so that whole weights
    give the matrix of the data with the points repeated: ∇² Σ w numerator / Σ w denominator, Jᵀ (w ∇²) J and the
    expectation likewise, w times the draw of a point (one draw, not w of them), and Σ w ∇ℓ ∇ℓᵀ / Σ w.

    Args:
        kind: Which of them.
        snapshot: The model at the parameters where H is taken.
        terms: How the loss normalises.
        divisor: Σ w denominator over all points; Σ w for ``empirical_fisher``.
        seed: Draws the targets of ``mc_fisher``.

    Raises:
        LossMismatch: A Fisher matrix is asked of a loss that predicts no distribution.
    """

    kind: Curvature
    snapshot: ModelSnapshot
    terms: LossTerms
    divisor: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind in (Curvature.Fisher, Curvature.McFisher) and not isinstance(self.terms, Likelihood):
            raise LossMismatch(
                f"{self.kind.value} needs a loss that is the negative log-likelihood of a known distribution.",
                given=self.terms.description,
                allowed="torch's cross_entropy, nll, binary_cross_entropy_with_logits and mse",
                hint="curvature='ggn' takes any loss, and so does 'empirical_fisher'.",
            )

    @property
    def key(self) -> str:
        """What tells this curvature's factors from those of another on the same model and data."""
        return f"{self.kind.value} seed={self.seed}" if self.kind is Curvature.McFisher else self.kind.value

    def product(self, batch: Batch, first_point: int, how: ProductKind) -> ChunkProduct:
        """The curvature of one chunk, not divided.

        Args:
            batch: The chunk's points.
            first_point: Place of the first of them in the data.
            how: How products are to be computed.
        """
        product = self._differentiated(batch, first_point, how)
        return LinearizedProduct(product, self.snapshot.parameters) if how == "linearized" else product

    def _differentiated(self, batch: Batch, first_point: int, how: ProductKind) -> ChunkProduct:
        """By autograd, whether that is recorded or used as it is."""
        x, y, w = moved(batch, self.snapshot.device)
        snapshot, terms = self.snapshot, weighted(self.terms, w)
        at = snapshot.parameters
        if self.kind is Curvature.Hessian:
            return SECOND_DERIVATIVES[how](lambda ps: terms.numerator(snapshot.outputs(ps, x), y), at)
        if self.kind is Curvature.EmpiricalFisher:
            return GAUSS_NEWTON[how](lambda ps: terms.per_point(snapshot.outputs(ps, x), y), _times(w), at)
        return GAUSS_NEWTON[how](lambda ps: snapshot.outputs(ps, x), self._middle(terms, y, first_point), at)

    def _middle(self, terms: LossTerms, y: Tensor, first_point: int) -> Middle:
        if self.kind is Curvature.McFisher:
            assert isinstance(terms, Likelihood)  # noqa: S101 - checked when this was made
            sampled = terms.sampled_curvature
            uniform = uniform_of_points(self.seed, first_point, self.snapshot.device)
            return lambda output: MappedOutput(sampled(output, y, uniform))
        linear = isinstance(self.terms, CrossEntropyTerms) and self.terms.kind == "nll"
        if self.kind is Curvature.Fisher or linear:
            assert isinstance(terms, Likelihood)  # noqa: S101 - checked when this was made
            expected = terms.expected_curvature
            return lambda output: MappedOutput(expected(output, y))

        def in_outputs(values: Sequence[Tensor]) -> Tensor:
            return terms.numerator(values[0], y)

        return lambda output: GraphProduct(in_outputs, (output,))


def _times(w: Tensor | None) -> Middle:
    """The same at whatever losses: the points' weights on the diagonal."""
    return lambda losses: MappedOutput(lambda t: t if w is None else w.to(losses) * t)
