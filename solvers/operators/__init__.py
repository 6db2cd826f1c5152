"""Curvature as linear operators on rows of vectors."""

from solvers.operators.curvature import CurvatureOperator
from solvers.operators.damped import DampedOperator
from solvers.operators.linear_operator import LinearOperator

__all__ = ["CurvatureOperator", "DampedOperator", "LinearOperator"]
