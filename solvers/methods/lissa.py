"""LiSSA: a Neumann series over minibatches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from ihvp.perturbation import describe
from solvers.certificate import Ending, Tolerance
from solvers.lanczos import smallest_eigenvalue
from solvers.operators.minibatches import MinibatchHessians
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.rhs import starting_point
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_lissa"]

DIVERGED: Final = 1e3
"""An update this many times ‖b‖ cannot come from a series that converges."""
PROBES: Final = 30


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Lissa)
def solve_lissa(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: float = 0.0,
    *,
    maxiter: int = 1000,
    dampen: float = 0.0,
    scale: float = 10.0,
    h0: Tensor | None = None,
    rtol: float = 1e-4,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves approximately by the recursion h ← b + (1 − dampen) h − (H_batch + λ) h / scale, x = h / scale.

    Agarwal, Bullins & Hazan (2017). The batches of the training data are taken once each in a random order,
    then in another; each is weighted so that their mean is H. With one batch the series is exact. The fixed
    point solves H + (λ + dampen·scale) I, while the certificate is on H + λI as asked.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model; their size is that of
            the minibatches.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0.
        maxiter: Most terms.
        dampen: Adds dampen·scale to λ.
        scale: Must exceed the largest eigenvalue of every batch's Hessian + λ.
        h0: First iterate, ``[p]`` or ``[k, p]``; not changed. b if left out.
        rtol: A right-hand side ends once no number in it moves by more than this share; and the relative
            residual up to which it counts as converged.
        seed: Draws the order of the batches.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; the residuals it sees are those on the minibatch.

    Returns:
        ``info`` has ``max_perc_residual`` and ``mean_perc_residual`` (last update in percent of the iterate, the
        largest and the mean over all numbers), ``effective_damping`` (λ + dampen·scale) and ``niter`` (terms, a
        list with one entry a right-hand side).

    Raises:
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(InversionMethod.Lissa, maxiter=maxiter, dampen=dampen, scale=scale, rtol=rtol, seed=seed)
    system = LinearSystem(
        InversionMethod.Lissa,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={**options, "h0": None if h0 is None else list(h0.shape)},
        expected_products=1,
        callback=callback,
        progress=progress,
    )
    series = _Series(system, h0, maxiter=maxiter, dampen=dampen, scale=scale, rtol=rtol, seed=seed)
    series.run()
    k = system.rhs.shape[0]
    return system.result(
        series.H / scale,
        [series.endings[i] for i in range(k)],
        Tolerance(rtol),
        max_perc_residual=100 * max(series.largest),
        mean_perc_residual=100 * sum(series.mean) / k,
        effective_damping=system.raised_perturbation(dampen * scale),
        niter=[series.endings[i].iterations for i in range(k)],
    )


class _Series:
    """The partial sums; rows of ``H`` that have ended are left out of the products."""

    def __init__(
        self,
        system: LinearSystem,
        h0: Tensor | None,
        *,
        maxiter: int,
        dampen: float,
        scale: float,
        rtol: float,
        seed: int,
    ) -> None:
        self.system = system
        self.maxiter, self.dampen, self.scale, self.rtol = maxiter, dampen, scale, rtol
        self.batches: MinibatchHessians = system.problem.minibatches()
        self.order = _order(len(self.batches), seed)
        self.H = system.rhs.clone() if h0 is None else starting_point("h0", h0, system.rhs)
        k = self.H.shape[0]
        self.norm_b = system.rhs.double().norm(dim=1).tolist()
        self.active = [i for i in range(k) if self.norm_b[i]]
        self.endings = {i: Ending(TerminationStatus.Converged, 0) for i in range(k)}
        self.best = self.H.clone()
        self.best_update = [math.inf] * k
        self.relative = [0.0] * k
        self.largest, self.mean = [0.0] * k, [0.0] * k

    def run(self) -> None:
        """Adds terms until every right-hand side has ended."""
        for iteration in range(1, self.maxiter + 1):
            if not self.active:
                return
            self._step(iteration)
            stop = self.system.report(iteration, self.maxiter, self.relative)
            if stop is not None:
                self._end_all(Ending(stop, iteration))
                return
        tolerance = f"the update still is {100 * max(self.largest):.2g} % of the iterate"
        self._end_all(
            Ending(
                TerminationStatus.MaxIterations,
                self.maxiter,
                f"After {self.maxiter} terms {tolerance}. Raise maxiter, use larger batches (their noise stays), "
                "lower scale if it is far above the largest eigenvalue, or use cg.",
            )
        )

    def _step(self, iteration: int) -> None:
        batch = next(self.order)
        h, b = self.H[self.active], self.system.rhs[self.active]
        Ah = self.system.operator.add_damping(self.batches.product(batch, h), h)
        self.system.count_partial(len(self.active), self.batches.shares[batch])
        update = b - self.dampen * h - Ah / self.scale
        sizes = update.double().norm(dim=1).tolist()
        new = h + update
        share = torch.where(new == 0, update.abs(), (update / new).abs())
        largest, mean = share.amax(dim=1).tolist(), share.mean(dim=1).tolist()
        self.H[self.active] = new
        still: list[int] = []
        for j, i in enumerate(self.active):
            if not sizes[j] <= DIVERGED * self.norm_b[i]:
                self.endings[i] = self._diverged(iteration, h[j], Ah[j])
                self.H[i] = self.best[i]
                continue
            self.relative[i] = sizes[j] / self.norm_b[i]
            self.largest[i], self.mean[i] = largest[j], mean[j]
            if sizes[j] < self.best_update[i] / 2:
                self.best[i], self.best_update[i] = new[j], sizes[j]
            if largest[j] < self.rtol:
                self.endings[i] = Ending(TerminationStatus.Approximate, iteration, self._settled())
            else:
                still.append(i)
        self.active = still

    def _diverged(self, iteration: int, h: Tensor, Ah: Tensor) -> Ending:
        """Why: the scale is too small for some batch, or there is negative curvature and no scale is enough."""
        if not bool(h.isfinite().all()) or not bool(Ah.isfinite().all()):
            return Ending(TerminationStatus.NonFinite, iteration)
        quotient = float(torch.dot(h, Ah) / torch.dot(h, h))
        if quotient < 0:
            smallest = smallest_eigenvalue(self.system.operator, h, PROBES)
            if smallest < 0:
                return Ending(
                    TerminationStatus.NegativeCurvature,
                    iteration,
                    rayleigh_quotient=smallest,
                    suggested_perturbation=self.system.largest_damping - 1.1 * smallest,
                )
        needed = 1.2 * self._largest_eigenvalue(h)
        return Ending(
            TerminationStatus.Breakdown,
            iteration,
            f"The series diverges: scale={self.scale:.3g} is too small for the largest eigenvalue of a batch. "
            f"Increase scale to about {needed:.3g}, or use larger batches.",
        )

    def _largest_eigenvalue(self, start: Tensor) -> float:
        """The largest over up to eight batches, each by a few power iterations."""
        found = 0.0
        for batch in range(min(len(self.batches), 8)):
            v = start / start.norm()
            for _ in range(8):
                Av = self.system.operator.add_damping(self.batches.product(batch, v[None]), v[None])[0]
                norm = Av.norm()
                found = max(found, float(norm))
                if not norm > 0:
                    break
                v = Av / norm
        return found

    def _settled(self) -> str:
        solved = describe(self.system.raised_perturbation(self.dampen * self.scale))
        other = f" It solved with λ = {solved}." if self.dampen else ""
        return (
            f"The series came to rest (rtol={self.rtol:.3g}) away from the solution.{other} "
            "Tighten rtol, set dampen=0, or use cg."
        )

    def _end_all(self, ending: Ending) -> None:
        for i in self.active:
            self.endings[i] = ending
        self.active = []


def _order(batches: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(batches, generator=generator).tolist()
