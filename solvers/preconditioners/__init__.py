"""What cg and minres may solve with first: approximations of (H + λI)⁻¹ that are symmetric positive definite."""

from solvers.preconditioners.choice import check_preconditioner, preconditioner_for
from solvers.preconditioners.preconditioner import Preconditioner

__all__ = ["Preconditioner", "check_preconditioner", "preconditioner_for"]
