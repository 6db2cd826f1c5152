"""Blobs: complete or not there, found by digest, bounded on disk."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.blobs.store import BlobGroup, BlobInfo
from ihvp.blobs.totals import FolderTotals
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
    return [path for path in store.root.rglob("*") if path.is_file() and path.name != "totals"]


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


def test_a_write_walks_over_no_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are kept: what all processes have written stands in one small file."""
    root = tmp_path / "blobs"
    other = FilesystemBlobStore(root)
    first = put(other, b"a" * 60).digest

    def walk(_: object) -> None:
        raise AssertionError("walks over the blobs")

    monkeypatch.setattr(os, "scandir", walk)
    monkeypatch.setattr(FilesystemBlobStore, "__iter__", walk)
    store = FilesystemBlobStore(root, max_bytes=100)
    assert store.total_bytes() == 60
    put(store, b"b" * 30)
    other.delete(first)
    put(other, b"c" * 50)
    put(other, b"c" * 50)  # the same again adds nothing
    assert store.total_bytes() == 80
    with pytest.raises(OutOfSpace):
        put(store, b"d" * 21)


def test_a_count_that_a_crash_left_wrong_is_mended_by_the_next_walk(tmp_path: Path) -> None:
    store = FilesystemBlobStore(tmp_path)
    digests = [put(store, bytes([n]) * 10).digest for n in range(20)]
    store.local_path(digests[0]).unlink()  # a name that went without being counted
    assert store.total_bytes() == 200
    assert len(list(store)) == 19
    assert store.total_bytes() == 190


def test_a_folder_that_changes_under_a_walk_keeps_its_count(tmp_path: Path) -> None:
    store = FilesystemBlobStore(tmp_path)
    first = put(store, b"a" * 10)
    walk = iter(store)
    assert next(walk).digest == first.digest
    prefix = first.digest[7:9]
    beside = next(data for n in range(100_000) if digest_of(data := b"%08d" % n)[7:9] == prefix)
    put(store, beside)
    assert len(list(walk)) <= 1
    assert store.total_bytes() == 18


def test_stores_of_many_processes_count_together(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ihvp.blobs.filesystem import FilesystemBlobStore\n"
        "store = FilesystemBlobStore(Path(sys.argv[1]))\n"
        "for n in range(100):\n"
        "    with store.writer() as writer:\n"
        "        writer.write(f'{sys.argv[2]} {n}'.encode().ljust(10))\n"
        "        digest = writer.commit().digest\n"
        "    if n % 2: store.delete(digest)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(4)]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    store = FilesystemBlobStore(tmp_path)
    assert store.total_bytes() == sum(blob.size for blob in store) == 4 * 50 * 10


def test_what_is_counted_while_another_still_makes_the_file_is_kept(tmp_path: Path) -> None:
    others: list[threading.Thread] = []

    def add() -> None:
        with FolderTotals(tmp_path / "totals", dict).change(7) as count:
            count(10)

    def walk() -> dict[int, int]:
        others.append(threading.Thread(target=add))
        others[0].start()
        others[0].join(0.3)  # waits for this one, or has counted already where it does not
        return {}

    totals = FolderTotals(tmp_path / "totals", walk)
    others[0].join(10)
    assert totals.total() == 10


def test_a_store_of_an_earlier_version_is_counted_once(tmp_path: Path) -> None:
    put(FilesystemBlobStore(tmp_path), b"a" * 60)
    for left in (None, b"", b"nonsense"):
        (tmp_path / "totals").unlink()
        if left is not None:
            (tmp_path / "totals").write_bytes(left)
        assert FilesystemBlobStore(tmp_path).total_bytes() == 60


def test_the_disk_is_not_filled_to_the_brim(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = FilesystemBlobStore(tmp_path, keep_free=free - 10 * 2**20)
    put(store, b"small")
    with pytest.raises(OutOfSpace, match="IHVP_KEEP_FREE_BYTES"), store.writer() as writer:
        writer.write(bytes(64 * 2**20))
    assert len(files(store)) == 1


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


class TestGroups:
    def write(self, group: BlobGroup, data: bytes) -> str:
        with group.writer() as writer:
            writer.write(data)
            return writer.commit().digest

    def test_all_of_a_group_come_at_once(self, store: FilesystemBlobStore) -> None:
        there = put(store, b"2").digest
        with store.group() as group:
            digests = [self.write(group, bytes(str(n), "ascii")) for n in (1, 2, 3, 3)]
            assert {info.digest for info in store} == {there}
            assert group.commit() == {}
            assert {info.digest for info in store} == set(digests)
        assert [store.open(digest).read() for digest in digests] == [b"1", b"2", b"3", b"3"]
        assert len(files(store)) == 3
        assert store.total_bytes() == 3

    def test_a_group_that_is_broken_off_leaves_nothing(self, store: FilesystemBlobStore) -> None:
        with pytest.raises(ConnectionResetError), store.group() as group:
            self.write(group, b"whole")
            with group.writer() as writer:
                writer.write(b"half")
                raise ConnectionResetError
        assert files(store) == []

    def test_a_group_can_be_filled_again(self, store: FilesystemBlobStore) -> None:
        with store.group() as group:
            first = self.write(group, b"first")
            group.commit()
            second = self.write(group, b"second")
            group.commit()
        assert {info.digest for info in store} == {first, second}

    def test_the_bound_counts_what_the_group_holds(self, tmp_path: Path) -> None:
        store = FilesystemBlobStore(tmp_path, max_bytes=100)
        with store.group() as group:
            kept = [self.write(group, b"a" * 60)]
            with pytest.raises(OutOfSpace, match="more than 40 bytes"):
                self.write(group, b"b" * 41)
            kept.append(self.write(group, b"c" * 40))
            group.commit()
        assert {info.digest for info in store} == set(kept)

    def test_what_cannot_be_synced_is_told_and_the_others_are_stored(
        self, store: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync = os.fsync

        def full(descriptor: int) -> None:
            if os.fstat(descriptor).st_size == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with store.group() as group:
            good, bad, another = (self.write(group, data) for data in (b"1", b"bad", b"22"))
            faults = group.commit()
        assert set(faults) == {bad}
        assert isinstance(faults[bad], OutOfSpace)
        assert {info.digest for info in store} == {good, another}
        assert len(files(store)) == 2

    def test_bytes_are_synced_before_their_name_and_names_before_the_end(
        self, store: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a power cut leaves cannot be tried here; the order of the calls is what it depends on."""
        sync, rename, seen = os.fsync, Path.rename, list[tuple[str, str]]()

        def heard_sync(descriptor: int) -> None:
            sync(descriptor)
            seen.append(("sync", str(Path(f"/dev/fd/{descriptor}").resolve())))

        def heard_rename(path: Path, target: Path) -> Path:
            seen.append(("rename", str(path)))
            seen.append(("named", str(target.parent)))
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", heard_sync)
        monkeypatch.setattr(Path, "rename", heard_rename)
        with store.group() as group:
            for n in range(32):
                self.write(group, bytes([n]))
            group.commit()
        renamed = [at for at, (what, _) in enumerate(seen) if what == "rename"]
        assert len(renamed) == 32
        for at in renamed:
            assert ("sync", seen[at][1]) in seen[:at]
        folders = {path for what, path in seen if what == "named"}
        assert sorted(seen[renamed[-1] + 2 :]) == sorted(("sync", path) for path in {*folders, str(store.root)})
        known = {Path(folder).name for folder in folders}
        seen.clear()
        put(store, next(d for n in range(10_000) if digest_of(d := f"more {n}".encode())[7:9] in known))
        assert [what for what, _ in seen] == ["sync", "rename", "named", "sync"], "the folder's own name lasts already"
