"""A randomised Nyström sketch of H: a low-rank approximation from one block of products, for any λ and b."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.blocks import gram, orthonormal_rows

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["DEFAULT_RANK", "NystromSketch", "nystrom_sketch"]

DEFAULT_RANK: Final = 200
ROWS_AT_ONCE: Final = 32
"""Products between two looks at whether to stop."""
COLUMNS_AT_ONCE: Final = 1 << 18
"""Numbers of each row that are combined in float64 at a time."""
CANCELLING: Final = 2.0
"""How much larger than elsewhere a quotient of the core must be to show that H has negative eigenvalues."""
SAFETY: Final = 2.0
"""The shift as a multiple of the most negative eigenvalue of the core, which lies above that of H."""
HEALTHY: Final = 0.5
"""The shift as a share of the curvature below which quotients rise: 1 loses small eigenvalues, 0.1 blows some up."""


@dataclass(frozen=True, eq=False)
class NystromSketch:
    """H ≈ V diag(values) Vᵀ with positive values; the negative part of H is left out.

    Attributes:
        values: In descending order, in float64 and in main memory: ``[r]``.
        vectors: Orthonormal rows ``[r, p]``.
        size: Products that it was made of; r is smaller where they hold less.
        shift: What was added to H while it was made: the rounding of the products, or more where H has negative
            eigenvalues.
    """

    values: Tensor
    vectors: Tensor
    size: int
    shift: float

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.values.nbytes + self.vectors.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors."""
        facts = torch.tensor([float(self.size), self.shift], dtype=torch.float64)
        return {"values": self.values, "vectors": self.vectors, "facts": facts}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The sketch that these tensors came from."""
        size, shift = tensors["facts"].tolist()
        return cls(tensors["values"], tensors["vectors"], int(size), shift)


def nystrom_sketch(
    system: LinearSystem, rank: int, seed: int
) -> tuple[NystromSketch | None, TerminationStatus | None]:
    """The sketch of a system's H, kept by its problem.

    Args:
        system: Tells H, and reports between blocks of products.
        rank: Products to make it of, at most p; fewer where they would not fit the problem's memory budget.
        seed: Draws the test vectors.

    Returns:
        The sketch, or None and why its making was stopped.
    """
    row = system.operator.size * system.rhs.element_size()
    rank = max(1, min(rank, system.problem.memory_budget // (2 * row)))
    asked: list[TerminationStatus] = []

    def make() -> NystromSketch | None:
        test = _test_rows(rank, seed, system.rhs)
        images = torch.empty_like(test)
        nothing_yet = [1.0] * system.rhs.shape[0]
        for start in range(0, test.shape[0], ROWS_AT_ONCE):
            piece = slice(start, start + ROWS_AT_ONCE)
            images[piece] = system.operator.curvature(test[piece])
            stop = system.report(0, rank, nothing_yet)
            if stop is not None:
                asked.append(stop)
                return None
        return _sketch_of(test, images)

    sketch = system.factor(f"nystrom rank={rank} seed={seed}", NystromSketch, make)
    return sketch, asked[0] if asked else None


def _test_rows(rank: int, seed: int, like: Tensor) -> Tensor:
    """Orthonormal rows ``[rank, p]`` in uniformly random directions."""
    p = like.shape[1]
    rows = torch.randn(rank, p, generator=torch.Generator().manual_seed(seed), dtype=like.dtype).to(like.device)
    if 4 * rank > p:
        return orthonormal_rows(rows, 0.0)
    # So few random rows are nearly orthogonal, and one pass makes them so to working precision.
    inverse = torch.linalg.inv(torch.linalg.cholesky(gram(rows, rows)))
    return torch.matmul(inverse.to(rows), rows)


def _sketch_of(test: Tensor, images: Tensor) -> NystromSketch:
    """From orthonormal test rows Ω and their images ΩH, both ``[l, p]``; overwrites the images.

    Frangella, Tropp & Udell (2023): (H + νI)Ωᵀ (Ω(H + νI)Ωᵀ)⁻¹ Ω(H + νI) − νI. Their ν, of the size of rounding, is
    not enough here: H has negative eigenvalues, which cancel positive ones in the core ΩHΩᵀ, and its inverse then
    blows up what is left. See :func:`_shift`.
    """
    size = test.shape[0]
    core, squares = gram(test, images), gram(images, images)
    # The core is symmetric but for the rounding of the products: this is what they cannot resolve.
    noise = float(torch.linalg.matrix_norm(core - core.T, 2)) if size > 1 else 0.0
    noise = max(noise, torch.finfo(test.dtype).eps * float(squares.trace().sqrt()) / size**0.5)
    core = (core + core.T) / 2
    if not bool(core.isfinite().all()) or not bool(squares.isfinite().all()) or not noise > 0:
        return NystromSketch(core.new_zeros(0), test[:0].clone(), size, 0.0)
    shift, least = _shift(core, squares, noise)
    identity = torch.eye(size, dtype=core.dtype)
    values, Q = torch.linalg.eigh(core + shift * identity)
    kept = values > shift / 2
    inverse_root = (Q[:, kept] * values[kept].rsqrt()).T
    images.add_(test, alpha=shift)
    if test.dtype == torch.float64:
        values, vectors = _singular_pairs(_combine(inverse_root, images))
    else:
        squares = squares + 2 * shift * core + shift**2 * identity
        values, W = torch.linalg.eigh(inverse_root @ squares @ inverse_root.T)
        vectors = (W * values.clamp_min(least).rsqrt()).T.flip(0) @ inverse_root
        values = values.flip(0)
    kept = values - shift > least
    values, vectors = values[kept] - shift, vectors[kept]
    if test.dtype != torch.float64:
        vectors = _combine(vectors, images)
    return NystromSketch(values, vectors.contiguous(), size, shift)


def _singular_pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values and right singular vectors as rows, in descending order.

    In float64 a Gram matrix would hold only half of the digits that the products have.
    """
    Q, R = torch.linalg.qr(rows.T)
    U, singular, _ = torch.linalg.svd(R, full_matrices=False)
    return singular.square().cpu(), (Q @ U).T


def _shift(core: Tensor, squares: Tensor, noise: float) -> tuple[float, float]:
    """What to add to H so that its sketch is one of a positive matrix, and the smallest eigenvalue it then tells.

    With v = Ωᵀq for an eigenvector q of the core, the quotient ‖Hv‖² / vᵀHv can only fall with vᵀHv where H is
    positive. Where it rises again, or vᵀHv is negative, positive and negative eigenvalues cancel in vᵀHv, and the
    sketch would take the quotient for an eigenvalue that H does not have.
    """
    values, Q = torch.linalg.eigh(core)
    lengths = torch.einsum("ij,ik,kj->j", Q, squares, Q)
    resolved = (values > noise) & (lengths > 1e-13 * float(squares.trace()))
    curvatures, quotients = values[resolved], (lengths / values)[resolved]
    least = max(noise, -float(values[0]))
    shift = max(noise, -SAFETY * float(values[0]))
    if curvatures.numel():
        healthiest = int(quotients.argmin())
        if least > 4 * noise or float(quotients[0]) > CANCELLING * float(quotients[healthiest]):
            shift = max(shift, HEALTHY * float(curvatures[healthiest]))
    return shift, least


def _combine(combination: Tensor, rows: Tensor) -> Tensor:
    """Linear combinations ``[r, l]`` of rows ``[l, p]``, summed in float64: they cancel."""
    result = rows.new_empty(combination.shape[0], rows.shape[1])
    combination = combination.to(rows.device)
    for start in range(0, rows.shape[1], COLUMNS_AT_ONCE):
        piece = slice(start, start + COLUMNS_AT_ONCE)
        result[:, piece] = (combination @ rows[:, piece].double()).to(rows.dtype)
    return result
