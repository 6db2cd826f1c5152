"""One LiSSA series: a Neumann series over minibatches, term by term."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from ihvp.perturbation import describe
from solvers.certificate import Ending
from solvers.checkpoint import endings_from, endings_to
from solvers.lanczos import smallest_eigenvalue
from solvers.operators.minibatches import MinibatchHessians
from solvers.rhs import starting_point
from solvers.system import LinearSystem

__all__ = ["Series", "safe_scale"]

DIVERGED: Final = 1e3
"""An update this many times ‖b‖ cannot come from a series that converges."""
PROBES: Final = 30
POWER_STEPS: Final = 8
ABOVE: Final = 1.2
"""What a power iteration of a few steps may be short of the largest eigenvalue."""


class Series:
    """The partial sums of one series; rows of ``H`` that have ended are left out of the products.

    Args:
        system: What is to be solved.
        h0: First iterate, or None for b.
        maxiter: Most terms.
        dampen: Adds dampen·scale to λ.
        scale: What H + λI is divided by.
        rtol: A row ends once no number in it moves by more than this share.
        seed: Draws the order of the batches.
    """

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

    @property
    def stopped(self) -> bool:
        """Whether somebody asked to stop."""
        return any(
            e.status in (TerminationStatus.Cancelled, TerminationStatus.Deadline) for e in self.endings.values()
        )

    def run(self, save: Callable[[int], None] = lambda _: None, begun: int = 0) -> None:
        """Adds terms until every right-hand side has ended.

        Args:
            save: Called after each term but the last, with its number.
            begun: Terms that are there already: those of a state that was restored.
        """
        for _ in range(begun):
            next(self.order)
        for iteration in range(begun + 1, self.maxiter + 1):
            if not self.active:
                return
            self._step(iteration)
            if self.active:
                save(iteration)
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

    def tensors(self) -> dict[str, Tensor]:
        """The vectors of the state."""
        return {"H": self.H, "best": self.best}

    def facts(self) -> dict[str, Any]:
        """The rest of it, JSON-ready."""
        return {
            "active": self.active,
            "endings": endings_to(self.endings),
            "best_update": [u if math.isfinite(u) else None for u in self.best_update],
            **{name: getattr(self, name) for name in ("relative", "largest", "mean")},
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes up what :meth:`tensors` and :meth:`facts` gave."""
        self.H, self.best = (tensors[name].to(self.H).clone() for name in ("H", "best"))
        self.active, self.endings = list(facts["active"]), endings_from(facts["endings"])
        self.best_update = [math.inf if u is None else u for u in facts["best_update"]]
        self.relative, self.largest, self.mean = (list(facts[name]) for name in ("relative", "largest", "mean"))

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
        needed = safe_scale(self.system, h)
        return Ending(
            TerminationStatus.Breakdown,
            iteration,
            f"The series diverges: scale={self.scale:.3g} is too small for the largest eigenvalue of a batch. "
            f"Increase scale to about {needed:.3g}, or use larger batches.",
        )

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


def safe_scale(system: LinearSystem, start: Tensor) -> float:
    """A scale above the largest eigenvalue of H + λI of every batch, as far as some power iterations show it.

    Args:
        system: Tells the batches.
        start: Where to begin ``[p]``.
    """
    batches = system.problem.minibatches()
    found = 0.0
    for batch in range(len(batches)):
        v = start / start.norm()
        for _ in range(POWER_STEPS):
            Av = system.operator.add_damping(batches.product(batch, v[None]), v[None])[0]
            system.count_partial(1, batches.shares[batch])
            norm = Av.norm()
            found = max(found, float(norm))
            if not norm > 0:
                break
            v = Av / norm
    return ABOVE * found
