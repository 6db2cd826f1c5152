"""LiSSA: a Neumann series over minibatches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from ihvp.perturbation import check_scale
from solvers.certificate import Ending, Tolerance
from solvers.checkpoint import Checkpoints, SolverState, check_resume, endings_from, endings_to, identity_of
from solvers.damping import Perturbation
from solvers.lissa_series import Series, safe_scale
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_lissa"]


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Lissa)
def solve_lissa(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    maxiter: int = 1000,
    dampen: float = 0.0,
    scale: float | None = 10.0,
    h0: Tensor | None = None,
    rtol: float = 1e-4,
    repeats: int = 1,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
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
        hessian_perturbation: λ ≥ 0, by parameter, or ``auto``.
        maxiter: Most terms.
        dampen: Adds dampen·scale to λ.
        scale: Must exceed the largest eigenvalue of every batch's Hessian + λ. None: 1.2 times what a few power
            iterations on each batch find, and twice as much where that diverges, until it does not.
        h0: First iterate, ``[p]`` or ``[k, p]``; not changed. b if left out.
        rtol: A right-hand side ends once no number in it moves by more than this share; and the relative
            residual up to which it counts as converged.
        repeats: Independent series, with the seeds from ``seed`` on, whose mean is x.
        seed: Draws the order of the batches.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; the residuals it sees are those on the minibatch.
        checkpoints: Where the state is saved, and found again: see :mod:`solvers.checkpoint`.

    Returns:
        ``info`` has ``max_perc_residual`` and ``mean_perc_residual`` (last update in percent of the iterate, the
        largest and the mean over all numbers), ``effective_damping`` (λ + dampen·scale), ``scale``, ``niter``
        (terms, a list with one entry a right-hand side) and ``repeat_std`` (a list: how far the series of each lie
        apart, as a share of ‖x‖; None for one series).

    Raises:
        InvalidOption: The scale is so small for λ alone, or dampen so large, that the series would diverge. One that
            is too small for H shows while it runs, and the certificate says what would do.
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(
        InversionMethod.Lissa, maxiter=maxiter, dampen=dampen, scale=scale, rtol=rtol, repeats=repeats, seed=seed
    )
    system = LinearSystem(
        InversionMethod.Lissa,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={**options, "h0": None if h0 is None else list(h0.shape)},
        expected_products=1,
        check=lambda damping: check_scale(scale, dampen, damping.largest),
        callback=callback,
        progress=progress,
    )
    settings = {"maxiter": maxiter, "dampen": dampen, "rtol": rtol}
    runs = _Repeats(system, h0, settings, repeats, seed, checkpoints)
    runs.run(scale)
    k = system.rhs.shape[0]
    series = runs.series
    return system.result(
        runs.mean / runs.scale,
        [runs.endings[i] for i in range(k)],
        Tolerance(rtol),
        max_perc_residual=100 * max(series.largest),
        mean_perc_residual=100 * sum(series.mean) / k,
        effective_damping=system.raised_perturbation(dampen * runs.scale),
        scale=runs.scale,
        niter=[runs.endings[i].iterations for i in range(k)],
        repeat_std=runs.relative_deviation(),
    )


class _Repeats:
    """Independent series of one system, one after another, and their mean."""

    def __init__(
        self,
        system: LinearSystem,
        h0: Tensor | None,
        settings: dict[str, Any],
        repeats: int,
        seed: int,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._system, self._h0, self._settings = system, h0, settings
        self._repeats, self._seed, self._checkpoints = repeats, seed, checkpoints
        self._done = 0
        self._squares = torch.zeros(system.rhs.shape[0], dtype=torch.float64)
        self.mean = torch.zeros_like(system.rhs)
        self.scale = 0.0
        self.endings: dict[int, Ending] = {}
        self.series: Series

    def run(self, scale: float | None) -> None:
        """Runs all of them, or until somebody asks to stop."""
        resume = None if self._checkpoints is None else self._checkpoints.resume
        self.scale = scale or 0.0
        if resume is not None:
            self._restore(resume)
        elif scale is None:
            generator = torch.Generator().manual_seed(self._seed)
            rhs = self._system.rhs
            self.scale = safe_scale(self._system, torch.randn(rhs.shape[1], generator=generator).to(rhs))
        while self._done < self._repeats:
            began = 0
            self.series = self._make()
            if resume is not None:
                self.series.restore(resume.tensors, resume.facts["series"])
                began, resume = resume.iteration, None
            self.series.run(self._save, began)
            if scale is None and self._done == 0 and self._diverges():
                self.scale *= 2
                continue
            self._take_in()
            if self.series.stopped:
                return

    def relative_deviation(self) -> list[float | None]:
        """The standard deviation of the series of each right-hand side as a share of ‖x‖; None for one series."""
        if self._done < 2:
            return [None] * self.mean.shape[0]
        norms = self.mean.double().norm(dim=1).cpu()
        spread = (self._squares / (self._done - 1)).clamp_min(0.0).sqrt()
        return [float(s / n) if n > 0 else None for s, n in zip(spread, norms, strict=True)]

    def _make(self) -> Series:
        return Series(self._system, self._h0, scale=self.scale, seed=self._seed + self._done, **self._settings)

    def _diverges(self) -> bool:
        return any(ending.status is TerminationStatus.Breakdown for ending in self.series.endings.values())

    def _take_in(self) -> None:
        """Welford's update of mean and squared deviations; of the endings, the first that is not the usual one."""
        self._done += 1
        before = self.series.H - self.mean
        self.mean = self.mean + before / self._done
        self._squares += torch.linalg.vecdot(before.double(), (self.series.H - self.mean).double()).cpu()
        for i, ending in self.series.endings.items():
            known = self.endings.get(i)
            if known is None or known.status in (TerminationStatus.Approximate, TerminationStatus.Converged):
                self.endings[i] = ending

    def _save(self, iteration: int) -> None:
        if self._checkpoints is None or not self._checkpoints.due():
            return
        facts = {
            **identity_of(self._system),
            "series": self.series.facts(),
            "done": self._done,
            "scale": self.scale,
            "earlier": endings_to(self.endings),
        }
        tensors = {**self.series.tensors(), "sum": self.mean, "squares": self._squares}
        self._checkpoints.save(SolverState(self._system.method.value, iteration, tensors, facts))

    def _restore(self, state: SolverState) -> None:
        check_resume(self._system, state)
        self._done, self.scale = state.facts["done"], state.facts["scale"]
        self.endings = endings_from(state.facts["earlier"])
        self.mean = state.tensors["sum"].to(self.mean).clone()
        self._squares = state.tensors["squares"].double().cpu().clone()
