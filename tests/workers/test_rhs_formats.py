"""Right-hand sides in every format and dtype that there is, through a worker's resolver and a solve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ihvp.blobs.store import BlobStore
from ihvp.jobs.submission import ResolvedRhs
from tests.workers.problems import Example, put_npy, put_tensors
from workers.resolvers.model import LoadedModel, load_model
from workers.resolvers.rhs import resolve_rhs

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
K = 2
# numpy has no bfloat16.
FORMS = [
    (form, dtype) for form in ("flat", "named", "npy") for dtype in DTYPES if (form, dtype) != ("npy", "bfloat16")
]


def loaded(blobs: BlobStore, dtype: str) -> LoadedModel:
    torch.manual_seed(0)
    config = {"in_features": 3, "out_features": 2}
    example = Example({"type": "linear", "config": config}, nn.Linear(3, 2), torch.randn(9, 3), torch.arange(9) % 2)
    return load_model(blobs, example.upload(blobs, dtype=dtype), memory_budget=2**26)


def named(rows: Tensor) -> dict[str, Tensor]:
    """One tensor a parameter, in another order than the model's."""
    lead = rows.shape[:-1]
    return {"bias": rows[..., 6:], "weight": rows[..., :6].reshape(*lead, 2, 3)}


@pytest.mark.parametrize(("form", "dtype"), FORMS)
@pytest.mark.parametrize("of_model", ["float32", "float64"])
@pytest.mark.parametrize("lead", [(), (K,)], ids=["p", "k p"])
def test_x_comes_in_the_models_dtype(
    blobs: BlobStore, tmp_path: Path, form: str, dtype: str, of_model: str, lead: tuple[int, ...]
) -> None:
    sent = torch.randn(*lead, 8, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])
    if form == "npy":
        blob = put_npy(blobs, tmp_path, sent.numpy())
    else:
        blob = put_tensors(blobs, **(named(sent) if form == "named" else {"b": sent}))
    model = loaded(blobs, of_model)
    b = resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=list(sent.shape)), model)
    # Half-precision numbers are exact in what they are raised to.
    assert b.dtype == DTYPES[of_model]
    assert torch.equal(b, sent.to(DTYPES[of_model]))
    x, info = model.problem.solve("cg", b, hessian_perturbation=0.1, rtol=1e-5, atol=0.0)
    assert x.dtype == DTYPES[of_model]
    assert x.shape == sent.shape
    assert {c["status"] for c in info["certificate"]} == {"converged"}


def test_numbers_too_large_for_the_models_dtype_are_told(blobs: BlobStore) -> None:
    from ihvp.errors import NonFiniteRhs

    blob = put_tensors(blobs, b=torch.full((8,), 1e39, dtype=torch.float64))
    with pytest.raises(NonFiniteRhs, match="inf at"):
        resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=[8]), loaded(blobs, "float32"))
    assert resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=[8]), loaded(blobs, "float64")).dtype == torch.float64


def test_halves_of_numpy(blobs: BlobStore, tmp_path: Path) -> None:
    blob = put_npy(blobs, tmp_path, np.ones(8, np.float16))
    b = resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=[8]), loaded(blobs, "float64"))
    assert torch.equal(b, torch.ones(8, dtype=torch.float64))
