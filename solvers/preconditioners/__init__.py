"""What cg and minres may solve with first: approximations of (H + λI)⁻¹ that are symmetric positive definite."""

from solvers.preconditioners.choice import preconditioner_for
from solvers.preconditioners.preconditioner import Preconditioner

__all__ = ["Preconditioner", "preconditioner_for"]
