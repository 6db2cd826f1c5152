"""Factors that one worker made and another loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.errors import StoreUnavailable
from ihvp.factors.memory_index import MemoryFactorIndex
from workers.factor_store import BlobFactors

KEY = "nystrom rank=2 seed=0"
TENSORS = {
    "U": torch.randn(3, 5, dtype=torch.float64).T,
    "values": torch.tensor([2.0, 1.0, 0.5]),
    "order": torch.tensor([2, 0]),
    "kept": torch.tensor([True, False]),
}


@pytest.fixture
def index() -> MemoryFactorIndex:
    return MemoryFactorIndex(2**20)


@pytest.fixture
def factors(blobs: FilesystemBlobStore, index: MemoryFactorIndex) -> BlobFactors:
    return BlobFactors(blobs, index, "sha256:model")


def test_every_kind_of_tensor_comes_back_as_it_was(factors: BlobFactors) -> None:
    factors.save(KEY, TENSORS, 1.0)
    found = factors.load(KEY)
    assert found is not None
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_factor_belongs_to_its_model_and_its_key(
    factors: BlobFactors, blobs: FilesystemBlobStore, index: MemoryFactorIndex
) -> None:
    factors.save(KEY, TENSORS, 1.0)
    assert factors.load("nystrom rank=3 seed=0") is None
    assert BlobFactors(blobs, index, "sha256:another").load(KEY) is None
    assert BlobFactors(blobs, index, "sha256:model").load(KEY) is not None


def test_what_is_made_as_fast_as_it_is_read_is_not_kept(factors: BlobFactors, blobs: FilesystemBlobStore) -> None:
    factors.save(KEY, TENSORS, 1e-9)
    assert factors.load(KEY) is None
    assert not list(blobs)


def test_a_blob_that_has_gone_or_was_spoilt_is_forgotten(
    factors: BlobFactors, blobs: FilesystemBlobStore, index: MemoryFactorIndex
) -> None:
    factors.save(KEY, TENSORS, 1.0)
    (digest,) = index.referenced_blobs()
    path = blobs.local_path(digest)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:20])
    assert factors.load(KEY) is None
    assert index.referenced_blobs() == set()
    blobs.delete(digest)
    factors.save(KEY, TENSORS, 1.0)
    blobs.delete(digest)
    assert factors.load(KEY) is None
    assert index.referenced_blobs() == set()


def test_neither_a_full_disk_nor_a_store_that_is_away_fails_a_solve(tmp_path: Path, index: MemoryFactorIndex) -> None:
    full = BlobFactors(FilesystemBlobStore(tmp_path / "full", max_bytes=10), index, "sha256:model")
    full.save(KEY, TENSORS, 1.0)
    assert full.load(KEY) is None

    class Away(MemoryFactorIndex):
        def find(self, name: str) -> str | None:
            raise StoreUnavailable("The store does not answer.")

        def keep(self, name: str, digest: str, size: int) -> bool:
            raise StoreUnavailable("The store does not answer.")

    away = BlobFactors(FilesystemBlobStore(tmp_path / "blobs"), Away(2**20), "sha256:model")
    away.save(KEY, TENSORS, 1.0)
    assert away.load(KEY) is None


def test_a_factor_larger_than_the_bound_leaves_no_blob(blobs: FilesystemBlobStore) -> None:
    tensors: dict[str, Tensor] = {"U": torch.ones(1000)}
    BlobFactors(blobs, MemoryFactorIndex(100), "sha256:model").save(KEY, tensors, 1.0)
    assert not list(blobs)
