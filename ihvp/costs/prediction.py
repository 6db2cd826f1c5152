"""Seconds ahead: the work of a method, times what was measured on this model, on others, or nowhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Final

from ihvp.costs.model import Work, most_iterations, work_of
from ihvp.costs.observation import Known, Observation
from ihvp.costs.workload import Task, Workload
from ihvp.methods import InversionMethod

__all__ = ["Basis", "Estimate", "predict"]

NEAREST: Final = 3
"""Observations whose median counts: enough to outvote one disturbed run."""
ABOUT: Final = 0.3
"""Observations at most twice as far off count as near as the nearest."""
PRODUCT_FLOOR_S: Final = 5e-4
"""What a product takes however small the model: tens of kernel launches from Python."""
SECONDS_PER_PN: Final = 4e-10
"""Float32 seconds for each parameter and point: forward and backward passes, twice, on one CPU thread."""
FLOPS_PER_S: Final = 5e9
"""Float64 factorisations on one CPU thread."""
JOB_S: Final = 0.01
"""Reading b, and first calls."""
LARGEST_EIGENVALUE: Final = 10.0
"""Of a mean loss at trained parameters, when nothing is known."""
CLUSTERED: Final = 1 / 3
"""Iterations that eigenvalues in clusters leave of what the condition number alone would take."""
PRECONDITIONED: Final = 0.6
"""Iterations that a preconditioner leaves."""
BY_DAMPING: Final = -0.4
"""Exponent of λ in iterations: √κ alone has -1/2; -0.2 to -0.5 were measured, the least in large blocks."""
BY_COLUMNS: Final = -0.2
"""Exponent of k in the iterations of a block, which searches the spaces of all columns; 0 to -0.4 were measured."""
LEAST_DAMPING: Final = 1e-12
UNKNOWN_DAMPING: Final = 1e-2
KRYLOV: Final = frozenset({InversionMethod.Cg, InversionMethod.Minres, InversionMethod.Auto})
"""These walk through the same Krylov spaces, so that the iterations of one tell about the others."""


class Basis(str, Enum):
    """What a prediction rests on: the weakest of what went into it."""

    ThisModel = "this_model"
    OtherModels = "other_models"
    Default = "default"


@dataclass(frozen=True)
class Estimate:
    """What a solve is expected to take.

    Attributes:
        certain_bytes: Memory that it cannot do without.
        bytes: Memory at its peak.
        products: Products, counted in vectors.
        seconds: On a worker that has the model loaded, from reading b to certified solutions.
        basis: What the seconds rest on.
    """

    certain_bytes: int
    bytes: int
    products: int
    seconds: float
    basis: Basis


def predict(workload: Workload, task: Task, known: Known) -> Estimate:
    """What a method takes on a workload, given what was observed."""
    work = work_of(workload, task)
    same = [o for o in known.here if _same_method(o, task)]
    product_s, product_basis = _product_seconds(workload, work, same, known)
    iterations, iteration_basis = _iterations(workload, task, work, known)
    setup = _setup_products(work, same)
    products = setup + workload.columns * (work.per_iteration * iterations + 1)  # one more to certify
    seconds = products * product_s + _other_seconds(work, same, known, product_s)
    if workload.influence:
        seconds += workload.columns * product_s  # one forward-mode pass of all points' losses along each x
    basis = max(product_basis, iteration_basis, key=list(Basis).index)
    return Estimate(work.certain_bytes, work.bytes, math.ceil(products), seconds, basis)


def _same_method(o: Observation, task: Task) -> bool:
    return (o.method, o.preconditioner, o.rank) == (task.method, task.preconditioner, task.rank)


def _product_seconds(w: Workload, work: Work, same: Sequence[Observation], known: Known) -> tuple[float, Basis]:
    """Seconds a product: measured here; or else in proportion to p n, above the floor, from the nearest in size."""
    here = [o for o in known.here if o.seconds_per_product]
    # Its own are in blocks of its own size; and a preconditioner's work is in the seconds of its products.
    own = [o for o in same if o.seconds_per_product]
    here = own or [o for o in here if o.preconditioner is None] or here
    if here:
        # A vector in a large block may cost a fraction of what it costs alone.
        rows = work.rows if work.rows and not own else w.columns
        alike = _closest(here, lambda o: abs(math.log10(o.columns / rows)))
        return median(o.seconds_per_product or 0.0 for o in alike), Basis.ThisModel
    # A product that is hardly more than the floor tells nothing of what grows with p n.
    timed = [o for o in known.recent if (o.seconds_per_product or 0.0) > 2 * PRODUCT_FLOOR_S]
    # How often a weight is used for a point depends on the architecture (convolutions, sequences), so kin comes first.
    kin = [o for o in timed if o.architecture == w.architecture] or timed
    size = w.num_params * w.num_points
    kin.sort(key=lambda o: abs(math.log(size / (o.num_params * o.num_points))))
    rates = [_rate(o) for o in kin[:NEAREST]]
    rate, basis = (median(rates), Basis.OtherModels) if rates else (SECONDS_PER_PN, Basis.Default)
    return PRODUCT_FLOOR_S + rate * size * _width(w.dtype), basis


def _rate(o: Observation) -> float:
    """Float32 seconds for each parameter and point, beyond the floor."""
    seconds = (o.seconds_per_product or 0.0) - PRODUCT_FLOOR_S
    return seconds / (o.num_params * o.num_points * _width(o.dtype))


def _width(dtype: str) -> float:
    # Half as many float64 numbers fit a register, a cache line and a second of memory bandwidth.
    return 2.0 if dtype == "float64" else 1.0


def _iterations(w: Workload, task: Task, work: Work, known: Known) -> tuple[float, Basis]:
    if not work.per_iteration:
        return 0.0, Basis.ThisModel
    most = most_iterations(w, task)
    family = KRYLOV if task.method in KRYLOV else {task.method}
    for basis, seen in ((Basis.ThisModel, known.here), (Basis.OtherModels, known.recent)):
        fitting = [o for o in seen if o.reached and o.method in family and o.curvature is w.curvature]
        alike = [o for o in fitting if o.preconditioner == task.preconditioner]
        if alike:
            return min(most, _scaled(w, task, alike)), basis
    if task.preconditioner is not None:
        plain, _ = _iterations(w, Task(task.method, {**task.options, "preconditioner": None}), work, known)
        return max(1.0, plain * PRECONDITIONED), Basis.Default
    if task.method not in KRYLOV:
        return most, Basis.Default  # a stochastic series seldom ends before its last term
    return min(most, w.num_params, _by_condition(w, task)), Basis.Default


def _scaled(w: Workload, task: Task, seen: Sequence[Observation]) -> float:
    """Iterations from the observations nearest in λ and k, brought to this λ, k and rtol."""

    def distance(o: Observation) -> float:
        return abs(_decades(o.damping, w.damping)) + abs(math.log10(o.columns / w.columns))

    def scaled(o: Observation) -> float:
        factor = 10 ** (-BY_DAMPING * _decades(o.damping, w.damping))
        if task.rtol is not None and o.rtol is not None:
            factor *= math.log(2 / task.rtol) / math.log(2 / o.rtol)
        if task.method is InversionMethod.Cg and o.method is InversionMethod.Cg:
            factor *= (w.columns / o.columns) ** BY_COLUMNS
        return max(1.0, o.iterations * factor)

    return median(scaled(o) for o in _closest(seen, distance))


def _closest(seen: Sequence[Observation], distance: Callable[[Observation], float]) -> Sequence[Observation]:
    """The newest of those that are about as near as the nearest; ``distance`` is in powers of ten."""
    least = min(distance(o) for o in seen)
    return [o for o in seen if distance(o) <= least + ABOUT][:NEAREST]


def _decades(seen: float | None, wanted: float | None) -> float:
    """How many powers of ten the λ that was seen lies above the one wanted; 0 where either is unknown."""
    if seen is None or wanted is None:
        return 0.0
    return math.log10(max(seen, LEAST_DAMPING) / max(wanted, LEAST_DAMPING))


def _by_condition(w: Workload, task: Task) -> float:
    """½ √κ ln(2/rtol), the bound of conjugate gradients (Saad 2003, 6.11.3), at a guess of κ."""
    damping = UNKNOWN_DAMPING if w.damping is None else max(w.damping, LEAST_DAMPING)
    bound = 0.5 * math.sqrt(1 + LARGEST_EIGENVALUE / damping) * math.log(2 / (task.rtol or 1e-5))
    return max(1.0, bound * CLUSTERED)


def _setup_products(work: Work, same: Sequence[Observation]) -> float:
    """Products outside the iterations; measured, they show whether workers still have what they make."""
    measured = [o.products - o.columns * (work.per_iteration * o.iterations + 1) for o in same[:NEAREST]]
    return max(0.0, median(measured)) if measured else work.setup_products


def _other_seconds(work: Work, same: Sequence[Observation], known: Known, product_s: float) -> float:
    """Seconds beside the products: of this method here, or else loading and storing, and the arithmetic by formula."""
    # What other methods leave beside their products may be their own arithmetic; these have none.
    plain = [o for o in known.here if o.method in KRYLOV and o.preconditioner is None]
    measured = [
        max(0.0, o.seconds - o.products * (o.seconds_per_product or product_s)) for o in (same or plain)[:NEAREST]
    ]
    return (median(measured) if measured else JOB_S) + (0.0 if same else work.flops / FLOPS_PER_S)
