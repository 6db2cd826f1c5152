"""Kronecker-factored curvature (K-FAC, EK-FAC): from the training data to something that can be inverted."""

from solvers.kronecker.factor import KroneckerBlock, KroneckerFactor
from solvers.kronecker.inverse import KroneckerInverse, kronecker_inverse
from solvers.kronecker.solving import solve_by_factors

__all__ = [
    "KroneckerBlock",
    "KroneckerFactor",
    "KroneckerInverse",
    "kronecker_inverse",
    "solve_by_factors",
]
