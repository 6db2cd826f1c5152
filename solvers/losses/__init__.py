"""How losses normalise: what makes the mean over all points exact for any batching."""

from solvers.losses.likelihood import Likelihood
from solvers.losses.recognition import loss_terms
from solvers.losses.terms import LossTerms, NormalisedLoss
from solvers.losses.weighted import weighted

__all__ = ["Likelihood", "LossTerms", "NormalisedLoss", "loss_terms", "weighted"]
