"""The public surface, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import solvers


def test_exported_names() -> None:
    assert set(solvers.__all__) == {
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
    }
    assert all(hasattr(solvers, name) for name in solvers.__all__)


def test_every_public_name_is_documented() -> None:
    for name in solvers.__all__:
        assert getattr(solvers, name).__doc__, name


def test_the_seed_methods_are_there() -> None:
    assert {m.value for m in solvers.InversionMethod} >= {"direct", "cg", "lissa", "arnoldi"}
    for method in solvers.InversionMethod:
        assert solvers.InversionRegistry.get(solvers.TorchTwiceDifferentiable, method)


def test_importing_solvers_loads_little_beyond_torch() -> None:
    code = (
        "import sys, torch, torch.nn.attention, torch.func; before = set(sys.modules); import solvers; "
        "print('\\n'.join(set(sys.modules) - before))"
    )
    new = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "solvers.methods.cg" in new
    roots = {name.split(".")[0] for name in new}
    assert not roots & {"rich", "numpy", "sympy", "celery", "redis", "fastapi", "httpx", "sklearn"}
    assert "torch._dynamo.eval_frame" not in new
