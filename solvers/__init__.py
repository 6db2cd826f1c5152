"""Certified solutions of (H + λI) x = b, where H is the curvature of a model's training loss."""

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Certificate
from solvers.gradients import loss_gradients
from solvers.influence import influence_scores
from solvers.inversion import solve_hvp
from solvers.losses import NormalisedLoss
from solvers.methods import LowRankRepresentation
from solvers.problem import Problem
from solvers.progress import IterationReport
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.torch_model import TorchTwiceDifferentiable
from solvers.twice_differentiable import TwiceDifferentiable

__all__ = [
    "Certificate",
    "InverseHvpResult",
    "InversionMethod",
    "InversionRegistry",
    "IterationReport",
    "LowRankRepresentation",
    "NormalisedLoss",
    "Problem",
    "TerminationStatus",
    "TorchTwiceDifferentiable",
    "TwiceDifferentiable",
    "influence_scores",
    "loss_gradients",
    "solve_hvp",
]
