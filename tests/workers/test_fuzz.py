"""Whatever bytes reach a worker, it says what is wrong with them and lives on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.errors import InvalidInput, InvalidTensor
from ihvp.jobs.submission import ResolvedRhs
from ihvp.models.spec import ModelSpec
from tests.tensors.damaged import BOMBS, damaged_files
from workers.resolvers.mapping import map_tensors
from workers.resolvers.model import load_model
from workers.resolvers.rhs import resolve_rhs

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MIB = 2**20


@pytest.fixture(scope="module")
def blobs() -> Iterator[FilesystemBlobStore]:
    with tempfile.TemporaryDirectory() as folder:
        yield FilesystemBlobStore(Path(folder) / "blobs")


def put(blobs: FilesystemBlobStore, data: bytes) -> str:
    with blobs.writer() as writer:
        writer.write(data)
        return writer.commit().digest


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_or_read_without_going_off(blobs: FilesystemBlobStore, bomb: str) -> None:
    before = psutil.Process().memory_info().rss
    try:
        tensors = map_tensors(blobs, put(blobs, BOMBS[bomb]))
    except InvalidTensor:
        tensors = {}
    assert sum(tensor.numel() for tensor in tensors.values()) <= 3
    del tensors
    assert psutil.Process().memory_info().rss - before < 64 * MIB


@QUICK
@given(data=damaged_files())
def test_any_bytes_are_tensors_or_a_clear_error(blobs: FilesystemBlobStore, data: bytes) -> None:
    try:
        tensors = map_tensors(blobs, put(blobs, data))
    except InvalidTensor:
        return
    for tensor in tensors.values():
        assert tensor.numel() * tensor.element_size() <= len(data), "no number comes from nowhere"
        tensor.clone()


@QUICK
@given(data=damaged_files(), place=st.sampled_from(["weights", "inputs", "targets", "rhs"]))
@example(data=BOMBS["NaN"], place="rhs")
def test_any_bytes_in_any_place_of_a_job_end_it_with_a_code(
    blobs: FilesystemBlobStore, data: bytes, place: str
) -> None:
    good = {
        "weights": put(blobs, _safetensors(weight=torch.ones(1, 2), bias=torch.zeros(1))),
        "inputs": put(blobs, _safetensors(inputs=torch.ones(10, 2))),
        "targets": put(blobs, _safetensors(targets=torch.ones(10, 1))),
        "rhs": put(blobs, _safetensors(b=torch.ones(3))),
    }
    used = {**good, place: put(blobs, data)}
    spec = ModelSpec.model_validate(
        {
            "architecture": {"type": "linear", "config": {"in_features": 2, "out_features": 1}},
            "weights": used["weights"],
            "loss": "mse",
            "data": {"inputs": used["inputs"], "targets": used["targets"]},
        }
    )
    try:
        model = load_model(blobs, spec, memory_budget=2**28)
        b = resolve_rhs(blobs, ResolvedRhs(blob=used["rhs"], shape=[3]), model)
    except InvalidInput:
        return
    assert bool(torch.isfinite(b).all())


def _safetensors(**tensors: torch.Tensor) -> bytes:
    from safetensors.torch import save

    return save(tensors)
