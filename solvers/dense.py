"""The dense Hessian of a problem and what inverts it at one λ, kept for later right-hand sides and other λ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["DenseHessian", "DenseInverse", "dense_inverse"]


@dataclass(frozen=True, eq=False)
class DenseHessian:
    """H, symmetric.

    Attributes:
        H: ``[p, p]`` in the dtype of the model.
    """

    H: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.H.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors."""
        return {"H": self.H}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The Hessian that these tensors came from."""
        return cls(tensors["H"])


@dataclass(frozen=True, eq=False)
class DenseInverse:
    """(H + Λ)⁻¹ by a Cholesky factor, or by eigenvalues where it is not positive definite.

    Attributes:
        factor: L of the Cholesky factorisation, or eigenvectors as columns: float64 ``[p, p]``; empty if H is not
            finite.
        eigenvalues: Of H + Λ, ascending ``[p]``; empty for a Cholesky factor.
        floor: Eigenvalues up to this size are rounding.
    """

    factor: Tensor
    eigenvalues: Tensor
    floor: float

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.factor.nbytes + self.eigenvalues.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors."""
        floor = torch.tensor([self.floor], dtype=torch.float64)
        return {"factor": self.factor, "eigenvalues": self.eigenvalues, "floor": floor}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse that these tensors came from."""
        return cls(tensors["factor"], tensors["eigenvalues"], float(tensors["floor"]))

    @property
    def facts(self) -> dict[str, Any]:
        """``factorization`` and ``inertia``, for ``info``."""
        if not self.factor.numel():
            return {"factorization": "none", "inertia": None}
        values, p = self.eigenvalues, self.factor.shape[0]
        if not values.numel():
            return {"factorization": "cholesky", "inertia": {"positive": p, "negative": 0, "zero": 0}}
        positive, negative = int((values > self.floor).sum()), int((values < -self.floor).sum())
        return {
            "factorization": "eigenvalues",
            "inertia": {"positive": positive, "negative": negative, "zero": p - positive - negative},
        }

    @property
    def smallest(self) -> float | None:
        """The smallest eigenvalue where it is not positive; else None."""
        found = float(self.eigenvalues[0]) if self.eigenvalues.numel() else None
        return found if found is not None and found <= self.floor else None

    def __call__(self, rows: Tensor) -> Tensor:
        """Applies it to float64 rows ``[k, p]``: on the range of H + Λ if that is singular, NaN if H is not finite."""
        if not self.factor.numel():
            return torch.full_like(rows, float("nan"))
        if not self.eigenvalues.numel():
            return torch.cholesky_solve(rows.T, self.factor).T
        zero = self.eigenvalues.abs() <= self.floor
        inverse = torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, self.eigenvalues))
        return ((rows @ self.factor) * inverse) @ self.factor.T


def dense_inverse(system: LinearSystem, H: Tensor) -> DenseInverse:
    """The inverse of H + Λ for a system, kept by its problem for right-hand sides to come.

    Eigenvalues of H itself are kept too once they had to be computed, and then serve every λ.

    Args:
        system: Tells Λ.
        H: ``[p, p]``.
    """

    def make() -> DenseInverse:
        A = H.to(torch.float64, copy=True)
        A.diagonal().add_(system.operator.damping)
        if not bool(A.isfinite().all()):
            return DenseInverse(A[:0], A[0, :0], 0.0)
        L, failed = torch.linalg.cholesky_ex(A)
        # A pivot lost in rounding means that the matrix is singular as far as its entries are known.
        floor = A.shape[0] * torch.finfo(H.dtype).eps * float(A.diagonal().abs().max())
        if not int(failed) and float(L.diagonal().square().min()) > floor:
            return DenseInverse(L, A[0, :0], floor)
        return _by_eigenvalues(system, H, A)

    found = system.factor(f"inverse at {system.perturbation!r}", DenseInverse, make, lasting=False)
    assert found is not None  # noqa: S101 - make always makes one
    return found


def _by_eigenvalues(system: LinearSystem, H: Tensor, A: Tensor) -> DenseInverse:
    if not system.has_one_damping:
        values, Q = torch.linalg.eigh(A)
        return _inverse(values, Q, H.dtype)

    def make() -> DenseInverse:
        values, Q = torch.linalg.eigh(H.double())
        return _inverse(values, Q, H.dtype)

    pairs = system.factor("eigenvalues", DenseInverse, make, lasting=False)
    assert pairs is not None  # noqa: S101
    return _inverse(pairs.eigenvalues + system.damping, pairs.factor, H.dtype)


def _inverse(values: Tensor, Q: Tensor, dtype: torch.dtype) -> DenseInverse:
    floor = values.shape[0] * torch.finfo(dtype).eps * float(values.abs().max())
    return DenseInverse(Q, values, floor)
