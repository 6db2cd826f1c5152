"""Eigenpairs of a symmetric operator by the thick-restart Lanczos method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from solvers.operators.linear_operator import LinearOperator

__all__ = ["Eigenpairs", "KrylovBasis", "largest_eigenpairs", "smallest_eigenvalue"]


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues of largest magnitude, in descending order of it.

    Attributes:
        values: ``[r]``.
        vectors: Orthonormal rows ``[r, p]``.
        errors: Bounds on the distance of each value to an eigenvalue: norms of A v − θ v, ``[r]``.
        restarts: Restarts that were made.
        converged: Whether every pair met the tolerance.
        stopped: Whether ``on_step`` asked to stop.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    restarts: int
    converged: bool
    stopped: bool

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.values.nbytes + self.vectors.nbytes + self.errors.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors."""
        facts = torch.tensor([self.restarts, int(self.converged), int(self.stopped)])
        return {"values": self.values, "vectors": self.vectors, "errors": self.errors, "facts": facts}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The pairs that these tensors came from."""
        restarts, converged, stopped = tensors["facts"].tolist()
        values, vectors, errors = (tensors[name] for name in ("values", "vectors", "errors"))
        return cls(values, vectors, errors, restarts, bool(converged), bool(stopped))


class KrylovBasis:
    """An orthonormal Krylov basis ``V`` with the projection ``T = V A Vᵀ``, built one product at a time.

    Every new vector is orthogonalised against all others, twice: in float32 the short recurrence loses
    orthogonality within a few steps and finds copies of eigenvalues.

    Args:
        operator: A, symmetric.
        start: The first vector ``[p]``, not zero.
        capacity: Most vectors.
        store: Where they are kept.

    Attributes:
        V: The vectors as rows; the first ``steps`` + 1 of them are there.
        T: The projection, in float64; its first ``steps`` rows and columns are there.
        steps: Products done since the last restart.
        beta: How far the basis is from being invariant: the norm of what the last product added to it.
    """

    def __init__(self, operator: LinearOperator, start: Tensor, capacity: int, store: torch.device) -> None:
        self._operator = operator
        self._device = start.device
        self.V = torch.zeros(capacity + 1, start.shape[0], dtype=start.dtype, device=store)
        self.T = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.V[0] = (start / start.norm()).to(store)
        self.steps = 0
        self.beta = 0.0

    def extend(self, generator: torch.Generator) -> None:
        """Multiplies the last vector and adds the next one."""
        j = self.steps
        w = self._operator(self.V[j : j + 1].to(self._device))[0].to(self.V.device)
        scale = float(w.norm())
        basis = self.V[: j + 1]
        h = torch.zeros(j + 1, dtype=torch.float64)
        for _ in range(2):
            overlap = basis @ w
            w = w - overlap @ basis
            h += overlap.double().cpu()
        self.T[: j + 1, j] = h
        self.T[j, : j + 1] = h
        self.beta = float(w.norm())
        self.steps += 1
        if self.steps == self.V.shape[1]:
            self.beta = 0.0
            return
        if self.beta <= 10 * torch.finfo(w.dtype).eps * scale or self.beta == 0.0:
            # An invariant subspace: multiple eigenvalues show only from a new direction.
            self.beta = 0.0
            w = self._new_direction(generator)
        self.V[self.steps] = w / w.norm()

    def restart(self, keep: int, values: Tensor, rotation: Tensor) -> None:
        """Keeps Ritz vectors (columns of ``rotation``) and the direction in which the basis would grow."""
        kept = rotation[:, :keep].to(self.V).T @ self.V[: self.steps]
        last = self.V[self.steps].clone()
        self.V[:keep] = kept
        # Rounding in the rotation is taken out again, so that it cannot pile up over restarts.
        last -= (kept @ last) @ kept
        self.V[keep] = last / last.norm()
        self.T.zero_()
        self.T[:keep, :keep] = torch.diag(values[:keep])
        self.steps = keep

    def _new_direction(self, generator: torch.Generator) -> Tensor:
        w = torch.randn(self.V.shape[1], generator=generator, dtype=self.V.dtype).to(self.V.device)
        for _ in range(2):
            w -= (self.V[: self.steps] @ w) @ self.V[: self.steps]
        return w


def largest_eigenpairs(
    operator: LinearOperator,
    rank: int,
    *,
    dimension: int,
    tol: float,
    max_restarts: int,
    generator: torch.Generator,
    like: Tensor,
    store: torch.device,
    on_step: Callable[[int], bool],
) -> Eigenpairs:
    """The eigenpairs of largest magnitude, by thick restarts (Wu & Simon, 2000).

    Args:
        operator: Symmetric, p × p.
        rank: Number r of pairs, 1 ≤ r ≤ p.
        dimension: Vectors in the basis, r < dimension, or p.
        tol: Accuracy of an eigenvalue relative to the largest; machine precision is the least that is asked.
        max_restarts: Most restarts.
        generator: Draws the first vector; on the CPU.
        like: A tensor of the dtype and device of the operator's vectors.
        store: Where the basis is kept.
        on_step: Called with the number of products done after each one; True stops.
    """
    start = torch.randn(operator.size, generator=generator, dtype=like.dtype).to(like.device)
    basis = KrylovBasis(operator, start, dimension, store)
    least = 10 * torch.finfo(like.dtype).eps
    done = restarts = 0
    while True:
        stopped = False
        while basis.steps < dimension and not stopped:
            basis.extend(generator)
            done += 1
            stopped = on_step(done)
        values, rotation = torch.linalg.eigh(basis.T[: basis.steps, : basis.steps])
        order = values.abs().argsort(descending=True)
        values, rotation = values[order], rotation[:, order]
        found = min(rank, basis.steps)
        errors = (basis.beta * rotation[-1, :found]).abs()
        accurate = bool((errors <= max(tol, least) * values.abs().max()).all()) and found == rank
        if accurate or stopped or restarts >= max_restarts:
            vectors = rotation[:, :found].to(basis.V).T @ basis.V[: basis.steps]
            return Eigenpairs(values[:found], vectors, errors, restarts, accurate, stopped)
        # Some pairs beyond those wanted keep the gap to the rest wide and convergence fast.
        basis.restart(min(rank + (dimension - rank) // 2, dimension - 1), values, rotation)
        restarts += 1


def smallest_eigenvalue(operator: LinearOperator, start: Tensor, steps: int) -> float:
    """An upper bound of the smallest eigenvalue that is close to it after some tens of steps.

    Args:
        operator: Symmetric, p × p.
        start: A vector ``[p]``, not zero; a direction of low curvature helps.
        steps: Products to spend.
    """
    generator = torch.Generator().manual_seed(0)
    dimension = min(steps, operator.size)
    # A start that is an eigenvector or nearly so would show nothing else.
    noise = torch.randn(operator.size, generator=generator, dtype=start.dtype).to(start.device)
    mixed = start / start.norm() + 0.1 * noise / noise.norm()
    basis = KrylovBasis(operator, mixed, dimension, start.device)
    while basis.steps < dimension:
        basis.extend(generator)
    return float(torch.linalg.eigvalsh(basis.T[:dimension, :dimension])[0])
