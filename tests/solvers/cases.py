"""Problems as data: each says how to build itself, and has an oracle that shares no code with the solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers import TorchTwiceDifferentiable

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """A model with its data, H in float64 by other means than ours, and a λ that makes it positive definite."""

    name: str
    model: TorchTwiceDifferentiable
    x: Tensor
    y: Tensor
    H: Tensor
    damping: float

    @property
    def p(self) -> int:
        return self.H.shape[0]

    def batches(self, size: int) -> Batches:
        return batches_of(self.x, self.y, size)

    def rhs(self, k: int, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(k, self.p, generator=generator, dtype=torch.float64).to(self.x.dtype)

    def exact(self, b: Tensor, damping: float | None = None) -> Tensor:
        damping = self.damping if damping is None else damping
        A = self.H + damping * torch.eye(self.p, dtype=torch.float64)
        return torch.linalg.solve(A, b.double().reshape(-1, self.p).T).T.reshape(b.shape)

    def residual(self, x: Tensor, b: Tensor, damping: float | None = None) -> list[float]:
        damping = self.damping if damping is None else damping
        A = self.H + damping * torch.eye(self.p, dtype=torch.float64)
        rows, rhs = x.double().reshape(-1, self.p), b.double().reshape(-1, self.p)
        return ((rows @ A - rhs).norm(dim=1) / rhs.norm(dim=1)).tolist()


def batches_of(x: Tensor, y: Tensor, size: int) -> Batches:
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def dense_hessian(model: nn.Module, mean_loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """∇² of a mean loss in float64, by rows of double backward on a copy of the module."""
    import copy

    model = copy.deepcopy(model).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(mean_loss(model), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.cat([r.reshape(-1) for r in torch.autograd.grad(g, parameters, retain_graph=True)]) for g in flat]
    return torch.stack(rows)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def least_squares(dtype: torch.dtype, n: int = 23, d: int = 5, c: int = 3) -> Case:
    """MSE averages over the c outputs: H = 2/c · I ⊗ XᵀX/n for a linear map without bias."""
    x = torch.randn(n, d, generator=_generator(), dtype=torch.float64)
    y = torch.randn(n, c, generator=_generator(), dtype=torch.float64)
    model = nn.Linear(d, c, bias=False, dtype=dtype)
    H = torch.kron(torch.eye(c, dtype=torch.float64), 2 / c * x.T @ x / n)
    return Case("least-squares", TorchTwiceDifferentiable(model, nn.MSELoss()), x.to(dtype), y.to(dtype), H, 0.1)


def logistic(dtype: torch.dtype, n: int = 29, d: int = 6) -> Case:
    """H = Xᵀ diag(σ(1−σ)) X / n."""
    x = torch.randn(n, d, generator=_generator(), dtype=torch.float64)
    y = (torch.rand(n, 1, generator=_generator(), dtype=torch.float64) > 0.5).double()
    w = torch.randn(1, d, generator=_generator(), dtype=torch.float64)
    model = nn.Linear(d, 1, bias=False, dtype=dtype)
    model.weight.data.copy_(w)
    s = torch.sigmoid(x @ w.to(dtype).double().T).squeeze(1)
    H = x.T @ ((s * (1 - s))[:, None] * x) / n
    loss = nn.BCEWithLogitsLoss()
    return Case("logistic", TorchTwiceDifferentiable(model, loss), x.to(dtype), y.to(dtype), H, 0.05)


def softmax(dtype: torch.dtype, n: int = 31, d: int = 4, c: int = 3) -> Case:
    """H = mean of (diag(s) − s sᵀ) ⊗ x xᵀ; singular along equal shifts of all classes."""
    x = torch.randn(n, d, generator=_generator(), dtype=torch.float64)
    y = torch.randint(0, c, (n,), generator=_generator())
    W = torch.randn(c, d, generator=_generator(), dtype=torch.float64)
    model = nn.Linear(d, c, bias=False, dtype=dtype)
    model.weight.data.copy_(W)
    s = torch.softmax(x @ W.to(dtype).double().T, dim=1)
    curvature = torch.diag_embed(s) - s[:, :, None] * s[:, None, :]
    H = torch.einsum("nab,ni,nj->aibj", curvature, x, x).reshape(c * d, c * d) / n
    return Case("softmax", TorchTwiceDifferentiable(model, F.cross_entropy), x.to(dtype), y, H, 0.1)


def small_mlp(dtype: torch.dtype, n: int = 37) -> Case:
    """Indefinite at its random parameters; λ lifts the smallest eigenvalue."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    x = torch.randn(n, 4, generator=_generator(), dtype=torch.float64)
    y = torch.randint(0, 3, (n,), generator=_generator())
    H = dense_hessian(model, lambda m: F.cross_entropy(m(x), y))
    damping = 0.2 - float(torch.linalg.eigvalsh(H)[0])
    return Case("mlp", TorchTwiceDifferentiable(model, nn.CrossEntropyLoss()), x.to(dtype), y, H, damping)


CASES: dict[str, Callable[[torch.dtype], Case]] = {
    "least-squares": least_squares,
    "logistic": logistic,
    "softmax": softmax,
    "mlp": small_mlp,
}


@dataclass(frozen=True)
class Method:
    """A method with options under which it solves the cases to a tolerance, as one batch."""

    name: str
    options: dict[str, object]
    error32: float
    error64: float

    def error(self, dtype: torch.dtype) -> float:
        return self.error32 if dtype == torch.float32 else self.error64


METHODS = [
    Method("direct", {}, 1e-5, 1e-10),
    Method("cg", {"rtol": 1e-6, "atol": 0.0}, 1e-5, 1e-5),
    Method("minres", {"rtol": 1e-6}, 1e-5, 1e-5),
    Method("lissa", {"scale": 4.0, "rtol": 1e-6, "maxiter": 3000}, 1e-3, 1e-3),
    Method("arnoldi", {"rank_estimate": "all", "tol": 1e-6}, 1e-4, 1e-8),
]


def options_for(method: Method, case: Case) -> dict[str, object]:
    """A method's options on a case: the low-rank method is exact at full rank."""
    return {k: case.p if v == "all" else v for k, v in method.options.items()}
