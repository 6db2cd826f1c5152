"""What each method takes: memory, products and arithmetic, each formula with its reason. No torch, no I/O.

p is the number of parameters, n of points, k of right-hand sides; a product is one vector times H, over all points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from ihvp.costs.workload import Task, Workload
from ihvp.methods import InversionMethod, dense_hessian_bytes

__all__ = ["Work", "eigenpairs", "most_iterations", "work_of"]

DEFAULT_RANK: Final = 200
SCALE_PROBES: Final = 10
"""Power iterations on each batch, from which lissa takes its scale when none is given."""
DIAGONAL_PROBES: Final = 64
"""Products from which jacobi estimates the diagonal of H."""
WIDEST_FACTOR: Final = 16_384
"""Inputs or outputs past which a layer's factors seldom fit any budget; kfac then takes its diagonal."""
MOST_OUTPUTS: Final = 64
"""Outputs past which kfac draws targets instead of taking them all."""
AUTO_PROBES: Final = 40
RESTARTS: Final = 3
"""Times that a thick-restart Lanczos process fills its basis, as a rule of thumb."""


@dataclass(frozen=True)
class Work:
    """What a solve takes.

    Attributes:
        certain_bytes: What it cannot do without: its vectors, and the matrices that its options ask for.
        bytes: What it is expected to take at its peak. Gradient graphs and linearisations come on top: the planner
            cuts those to what the budget leaves.
        setup_products: Products before the first iteration, or all of them where there are no iterations. None of
            them again where a worker has kept what they made.
        per_iteration: Products of a right-hand side in an iteration.
        flops: Arithmetic outside the products that grows faster than p.
        rows: Vectors that are multiplied together; 0 for the right-hand sides.
    """

    certain_bytes: int
    bytes: int
    setup_products: float = 0.0
    per_iteration: float = 0.0
    flops: float = 0.0
    rows: int = 0


def work_of(workload: Workload, task: Task) -> Work:
    """What a method with its options takes on a workload."""
    return _WORK[task.method](workload, task.options)


def most_iterations(workload: Workload, task: Task) -> int:
    """The most iterations that the options allow: 10 p where they do not say."""
    return int(task.options.get("maxiter") or 10 * workload.num_params)


def eigenpairs(rank: int | None, most: int) -> int:
    """The rank of a low-rank method; the default is cut to what there is."""
    return min(DEFAULT_RANK, most) if rank is None else rank


def _direct(w: Workload, _: Any) -> Work:
    # One product a column of H, then a Cholesky factorisation in p³/3 and two triangular solves a right-hand side.
    dense = dense_hessian_bytes(w.num_params, w.dtype)
    flops = w.num_params**3 / 3 + 2 * w.columns * w.num_params**2
    return Work(dense, dense + w.vectors(2), w.num_params, 0.0, flops, rows=w.num_params)


def _cg(w: Workload, options: Any) -> Work:
    # x, residual, direction and H·direction, and b beside them; the check of a solution makes one vector more.
    return _preconditioned(Work(w.vectors(5), w.vectors(6), per_iteration=1.0), w, options)


def _minres(w: Workload, options: Any) -> Work:
    # Two Lanczos vectors and their product, three directions and x, and b beside them.
    return _preconditioned(Work(w.vectors(8), w.vectors(9), per_iteration=1.0), w, options)


def _lissa(w: Workload, options: Any) -> Work:
    # A term takes a product with one batch only. Without a scale, each batch is probed first.
    share = min(1.0, w.batch_size / w.num_points)
    probes = SCALE_PROBES if options.get("scale") is None else 0
    return Work(w.vectors(2), w.vectors(5), probes, share * int(options.get("repeats") or 1))


def _arnoldi(w: Workload, options: Any) -> Work:
    # The basis stays whole (full reorthogonalisation, 4 p m² each time it is filled), and is filled a few times.
    rank = min(int(options["rank_estimate"]), w.num_params)
    dimension = min(int(options.get("krylov_dimension") or max(2 * rank + 1, 20)), w.num_params)
    flops = RESTARTS * 4.0 * w.num_params * dimension**2
    basis = w.panel(dimension)
    held = basis + w.panel(rank) + w.vectors(3)
    return Work(basis + w.vectors(2), held, RESTARTS * dimension, 0.0, flops, rows=1)


def _nystrom(w: Workload, options: Any) -> Work:
    # The random matrix and its product with H, then the eigenvectors in their place; orthogonalising takes 4 p r².
    # Its rank is cut to the budget, so it is not certain to exceed it.
    rank = eigenpairs(options.get("rank"), w.num_params)
    sketch = w.panel(2 * rank)
    return Work(w.vectors(2), sketch + w.vectors(3), rank, 0.0, _sketch_flops(w, rank), rows=rank)


def _kfac(w: Workload, options: Any) -> Work:
    # Factors and their eigenvectors. How a layer without factors is treated is the solver's own, so only the vectors
    # are certain. A pass for the factors costs about a product, and as many again as there are kinds of gradients.
    factors, flops = _kronecker(w)
    passes = 1.0 + 0.5 * _gradient_kinds(w, options)
    return Work(w.vectors(2), factors + w.vectors(3), passes, 0.0, flops)


def _ekfac(w: Workload, options: Any) -> Work:
    # kfac, then a second pass in which every point's gradient is turned into the eigenbasis; p eigenvalues more.
    base = _kfac(w, options)
    return replace(base, bytes=base.bytes + w.panel(1), setup_products=2 * base.setup_products)


def _datainf(w: Workload, _: Any) -> Work:
    # A gradient of each point costs about a product. All right-hand sides are multiplied by it, and added to, in the
    # same pass; nothing else is kept, as b and the sum over points are all there is.
    flops = 4.0 * w.num_params * w.num_points * w.columns
    return Work(w.vectors(2), w.vectors(4), 1.0, 0.0, flops)


def _auto(w: Workload, _: Any) -> Work:
    # Probes for λmax and λmin, then, as a rule, cg; what it is certain to need is b and x.
    return Work(w.vectors(2), w.vectors(6), AUTO_PROBES, per_iteration=1.0)


def _preconditioned(base: Work, w: Workload, options: Any) -> Work:
    """The work with what its preconditioner takes to make and to hold, and one vector to apply it to."""
    kind = options.get("preconditioner")
    if kind is None:
        return base
    rank = eigenpairs(options.get("preconditioner_rank"), max(1, w.num_params // 2))
    if kind in ("nystrom", "deflation"):
        # A sketch and its images; or the basis of a Lanczos process of twice the rank, and the pairs kept of it.
        width, products = (rank, rank) if kind == "nystrom" else (2 * rank, RESTARTS * 2 * rank)
        held, flops = w.panel(rank + width), _sketch_flops(w, width)
    elif kind in ("kfac", "ekfac"):
        made = (_kfac if kind == "kfac" else _ekfac)(w, {})
        held, flops, products = made.bytes - w.vectors(3), made.flops, math.ceil(made.setup_products)
    else:
        held, flops, products = w.panel(2), 0.0, min(DIAGONAL_PROBES, w.num_params)
    return replace(
        base,
        bytes=base.bytes + held + w.vectors(1),
        setup_products=float(products),
        flops=flops,
    )


def _sketch_flops(w: Workload, rank: int) -> float:
    return 4.0 * w.num_params * rank**2


def _kronecker(w: Workload) -> tuple[int, float]:
    """Bytes of all Kronecker factors with their eigenvectors, and the arithmetic of their eigenproblems (9 d³)."""
    sides = []
    for shape in w.shapes:
        if len(shape) >= 2:
            layer = [shape[0], math.prod(shape[1:]) + 1]  # the bias is one input more that is always 1
            sides += layer if max(layer) <= WIDEST_FACTOR else []
    return sum(2 * d * d for d in sides) * w.item_size, sum(9.0 * d**3 for d in sides)


def _gradient_kinds(w: Workload, options: Any) -> int:
    """Backward passes for the output factors: one for each output of the last layer, unless targets are drawn."""
    outputs = w.shapes[-1][0] if w.shapes and w.shapes[-1] else 1
    return outputs if options.get("statistics", "type2") == "type2" and outputs <= MOST_OUTPUTS else 1


_WORK: Final[dict[InversionMethod, Callable[[Workload, Any], Work]]] = {
    InversionMethod.Direct: _direct,
    InversionMethod.Cg: _cg,
    InversionMethod.Minres: _minres,
    InversionMethod.Lissa: _lissa,
    InversionMethod.Arnoldi: _arnoldi,
    InversionMethod.Nystrom: _nystrom,
    InversionMethod.Kfac: _kfac,
    InversionMethod.Ekfac: _ekfac,
    InversionMethod.Datainf: _datainf,
    InversionMethod.Auto: _auto,
}
