"""The methods on PyTorch models, one a file; importing this package registers them."""

from solvers.methods.arnoldi import LowRankRepresentation, solve_arnoldi
from solvers.methods.auto import solve_auto
from solvers.methods.cg import solve_cg
from solvers.methods.datainf import solve_datainf
from solvers.methods.direct import solve_direct
from solvers.methods.ekfac import solve_ekfac
from solvers.methods.kfac import solve_kfac
from solvers.methods.lissa import solve_lissa
from solvers.methods.minres import solve_minres
from solvers.methods.nystrom import solve_nystrom

__all__ = [
    "LowRankRepresentation",
    "solve_arnoldi",
    "solve_auto",
    "solve_cg",
    "solve_datainf",
    "solve_direct",
    "solve_ekfac",
    "solve_kfac",
    "solve_lissa",
    "solve_minres",
    "solve_nystrom",
]
