"""What of a solver's info goes into the result's document, and how large tensors are written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ihvp.blobs.filesystem import FilesystemBlobStore
from workers.result_blob import json_ready, write_tensor


def test_numbers_that_are_not_finite_become_null() -> None:
    ready = json_ready({"a": math.nan, "b": [1.0, -math.inf], "c": torch.tensor([math.inf, 2.0])})
    assert ready == {"a": None, "b": [1.0, None], "c": [None, 2.0]}
    json.dumps(ready, allow_nan=False)


def test_small_tensors_are_written_out_and_large_ones_named() -> None:
    ready = json_ready(
        {"eigenvalues": torch.arange(3.0), "hessian": torch.eye(2), "basis": {"v": torch.zeros(200, 100)}}
    )
    assert ready["eigenvalues"] == [0.0, 1.0, 2.0]
    assert "hessian" not in ready
    assert ready["left_out"] == {"hessian": "tensor [2, 2]", "basis.v": "tensor [200, 100]"}


def test_what_a_registered_solver_may_put_there_is_told() -> None:
    ready = json_ready({"n": np.int64(3), "f": np.float32(0.5), "tuple": (1, True, None), "o": object})
    assert (ready["n"], ready["f"], ready["tuple"]) == (3, 0.5, [1, True, None])
    assert isinstance(ready["o"], str)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 1_500_000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_survives_the_blob_store(
    blobs: FilesystemBlobStore, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(shape, dtype=dtype)
    info = write_tensor(blobs, "x", x, {"ihvp": 'ü " λ'})
    with safe_open(blobs.local_path(info.digest), framework="pt") as file:
        assert torch.equal(file.get_tensor("x"), x)
        assert file.metadata() == {"ihvp": 'ü " λ'}
    assert info.size == blobs.stat(info.digest).size


def test_a_view_with_strides_is_written_in_order(blobs: FilesystemBlobStore) -> None:
    x = torch.arange(12.0).reshape(3, 4).T
    info = write_tensor(blobs, "x", x, {})
    with safe_open(blobs.local_path(info.digest), framework="pt") as file:
        assert torch.equal(file.get_tensor("x"), x)
