"""Blobs: complete or not there, found by digest, bounded on disk."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.blobs.store import BlobInfo
from ihvp.errors import BlobNotFound, DigestMismatch, InvalidReference, OutOfSpace

ABSENT = "sha256:" + "0" * 64


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(store: FilesystemBlobStore, data: bytes, expected: str | None = None) -> BlobInfo:
    with store.writer() as writer:
        for start in range(0, len(data), 7):
            writer.write(data[start : start + 7])
        return writer.commit(expected)


def files(store: FilesystemBlobStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


@pytest.fixture
def store(tmp_path: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(tmp_path / "with a space" / "blobs")


def test_what_went_in_comes_out(store: FilesystemBlobStore) -> None:
    data = b"some bytes that are longer than one chunk"
    info = put(store, data, digest_of(data))
    assert (info.digest, info.size, info.created) == (digest_of(data), len(data), True)
    assert store.open(info.digest).read() == data
    assert store.local_path(info.digest).read_bytes() == data
    assert store.stat(info.digest).size == len(data)


def test_an_empty_blob_is_a_blob(store: FilesystemBlobStore) -> None:
    assert store.open(put(store, b"").digest).read() == b""


def test_a_second_write_of_the_same_bytes_refreshes_their_age(store: FilesystemBlobStore) -> None:
    digest = put(store, b"twice").digest
    os.utime(store.local_path(digest), (time.time() - 900, time.time() - 900))
    assert store.stat(digest).age_s > 800
    assert not put(store, b"twice").created
    assert store.stat(digest).age_s < 60
    assert len(files(store)) == 1


def test_a_wrong_digest_stores_nothing(store: FilesystemBlobStore) -> None:
    with pytest.raises(DigestMismatch, match="cut short or altered") as caught:
        put(store, b"these bytes", digest_of(b"other bytes"))
    assert digest_of(b"these bytes") in str(caught.value)
    assert digest_of(b"other bytes") in str(caught.value)
    assert files(store) == []


def test_a_write_that_is_broken_off_leaves_nothing(store: FilesystemBlobStore) -> None:
    with pytest.raises(ConnectionResetError), store.writer() as writer:
        writer.write(b"half")
        raise ConnectionResetError
    assert files(store) == []


@pytest.mark.parametrize("call", ["stat", "open", "local_path", "touch"])
def test_what_is_not_there_is_named(store: FilesystemBlobStore, call: str) -> None:
    with pytest.raises(BlobNotFound, match=ABSENT):
        getattr(store, call)(ABSENT)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:../..", "sha256:" + "A" * 64, ""])
def test_no_name_leads_out_of_the_folder(store: FilesystemBlobStore, digest: str) -> None:
    with pytest.raises(InvalidReference):
        store.open(digest)


def test_deleting_is_idempotent(store: FilesystemBlobStore) -> None:
    digest = put(store, b"gone soon").digest
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(BlobNotFound):
        store.stat(digest)


def test_the_bound_counts_all_blobs(tmp_path: Path) -> None:
    store = FilesystemBlobStore(tmp_path, max_bytes=100)
    first = put(store, b"a" * 60).digest
    with pytest.raises(OutOfSpace, match=r"more than 40 bytes.*100 bytes in all.*IHVP_MAX_STORE_BYTES"):
        put(store, b"b" * 41)
    put(store, b"c" * 40)
    store.delete(first)
    put(store, b"d" * 60)
    assert store.total_bytes() == 100
    assert len(files(store)) == 2


def test_another_processes_blobs_count(tmp_path: Path) -> None:
    put(FilesystemBlobStore(tmp_path), b"a" * 60)
    with pytest.raises(OutOfSpace):
        put(FilesystemBlobStore(tmp_path, max_bytes=100), b"b" * 60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which this platform lacks")
def test_a_full_disk_is_a_clear_error(store: FilesystemBlobStore) -> None:
    """/dev/full answers every flush as a full disk does."""
    with store.writer() as writer, Path("/dev/full").open("wb", buffering=0) as full:
        writer._file.close()
        writer._file = full  # type: ignore[assignment]
        with pytest.raises(OutOfSpace, match="disk that holds the blobs is full"):
            writer.write(b"x")


def test_many_writers_of_the_same_bytes(store: FilesystemBlobStore) -> None:
    data = os.urandom(1000)
    with ThreadPoolExecutor(8) as pool:
        digests = {info.digest for info in pool.map(lambda _: put(store, data), range(32))}
    assert digests == {digest_of(data)}
    assert [path.read_bytes() for path in files(store)] == [data]


def test_listing_and_sweeping(store: FilesystemBlobStore) -> None:
    digests = {put(store, bytes([n])).digest for n in range(5)}
    stale = store.root / "unfinished" / "left-by-a-crash"
    stale.write_bytes(b"half")
    assert {info.digest for info in store} == digests
    assert store.sweep_unfinished(3600) == 0
    os.utime(stale, (0, 0))
    assert store.sweep_unfinished(3600) == 1
    assert {info.digest for info in store} == digests
    assert len(files(store)) == 5
