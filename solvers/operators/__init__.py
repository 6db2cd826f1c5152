"""Curvature as linear operators on rows of vectors."""

from solvers.operators.damped import DampedOperator
from solvers.operators.hessian import Hessian
from solvers.operators.linear_operator import LinearOperator

__all__ = ["DampedOperator", "Hessian", "LinearOperator"]
