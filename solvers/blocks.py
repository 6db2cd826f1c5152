"""Algebra of a few long rows: products, orthonormal bases and small symmetric systems, in float64 where it counts."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["gram", "orthonormal_rows"]

COLUMNS_AT_ONCE: Final = 1 << 20
"""Numbers of each row that are held in float64 at a time."""


def gram(A: Tensor, B: Tensor) -> Tensor:
    """A Bᵀ ``[m, k]`` in float64 and in main memory, for rows ``A`` ``[m, p]`` and ``B`` ``[k, p]``.

    Block methods divide by these products: summed in float32 they would be known to four digits at p = 10⁶. A
    few numbers are worked on faster there than on an accelerator, which never sees more than a stretch of the
    rows in float64.
    """
    p = A.shape[1]
    if A.dtype == torch.float64 or p <= COLUMNS_AT_ONCE:
        return (A.double() @ B.double().T).cpu()
    total = A.new_zeros(A.shape[0], B.shape[0], dtype=torch.float64)
    for start in range(0, p, COLUMNS_AT_ONCE):
        piece = slice(start, start + COLUMNS_AT_ONCE)
        total += A[:, piece].double() @ B[:, piece].double().T
    return total.cpu()


def orthonormal_rows(Z: Tensor, threshold: float) -> Tensor:
    """An orthonormal basis ``[r, p]`` of the rows of ``Z`` ``[m, p]``, without the directions lost in rounding.

    The rows are brought to one length first, so that a small one counts as much as a large one. Eigenvectors of
    the Gram matrix then stand in for a QR factorisation: two products with long rows, and the rank is seen.

    Args:
        Z: Rows; those that are zero count for nothing.
        threshold: Singular values below this share of the largest are left out.
    """
    largest = Z.abs().amax(dim=1, keepdim=True)
    alive = largest[:, 0] > 0
    if not bool(alive.any()):
        return Z[:0]
    # By the largest number first: the square of a row may overflow where the row does not.
    rows = Z[alive] / largest[alive]
    rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # Once more for the rounding of the first time: orthogonal to working precision, as with Gram-Schmidt.
    for cut in (threshold, 0.0):
        values, U = torch.linalg.eigh(gram(rows, rows))
        kept = values > max(cut * cut, 1e-15) * values[-1]
        rows = torch.matmul((U[:, kept] * values[kept].rsqrt()).T.to(rows), rows)
    return rows
