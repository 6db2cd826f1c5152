"""Referenced files on the worker's disk: fetched once for all workers of a machine, kept within a bound."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog

from ihvp.blobs.writing import disk_space, sync_file, sync_folder
from ihvp.errors import OutOfSpace, SourceChanged, SourceTimeout, SourceTooLarge, SourceUnavailable
from ihvp.settings import Settings
from ihvp.sources.pin import SourcePin
from ihvp.sources.sources import Sources

__all__ = ["CachedFile", "SourceCache"]

_log = structlog.get_logger(__name__)

CHUNK: Final = 1 << 20
POLL_S: Final = 0.05
PART: Final = ".part"
LOCK: Final = ".lock"


class Fetcher(Protocol):
    """Where files come from: ``ihvp.sources.sources.Sources``."""

    def pin(self, uri: str) -> SourcePin:
        """The file as it is now."""

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """Its bytes."""


@dataclass
class CachedFile:
    """A file in the cache, which stays there as long as this is open.

    Attributes:
        path: Never to be written to.
        sha256: Of its bytes.
    """

    path: Path
    sha256: str
    _held: BinaryIO

    def close(self) -> None:
        """Lets the cache drop the file; mappings of it stay sound."""
        self._held.close()


class SourceCache:
    """A folder of fetched files, which the workers of a machine share.

    A file is named ``<key>-<sha256>``: the key is made of URI and pin, so what was pinned otherwise is another file.
    Whoever fetches holds ``<key>.lock``, writes ``<key>.part``, syncs and renames it. Whoever reads holds a shared
    lock on the file itself, without which it may be dropped, the longest unused first.

    Args:
        settings: Folder and bounds.
        sources: What fetches; left out, what the settings open.
        pauses: Before each further try of a fetch.
    """

    def __init__(
        self, settings: Settings, sources: Fetcher | None = None, *, pauses: Sequence[float] = (0.5, 3.0)
    ) -> None:
        self._settings = settings
        self._pauses = pauses
        self._sources = sources
        self._root = settings.source_cache_dir

    def get(self, uri: str, pin: SourcePin) -> CachedFile:
        """The file, fetched if it is not there.

        Raises:
            SourceChanged: What is at the URI now is not what was pinned.
            SourceTooLarge: It is larger than the whole cache may be.
            OutOfSpace: All that the cache holds is in use, or the disk is full.
            IhvpError: It cannot be fetched; see ``ihvp.sources.source.Source``.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        key = _key(uri, pin)
        found = self._find(key)
        if found is not None:
            return found
        with self._locked(self._root / f"{key}{LOCK}"):
            # Another worker may have brought it while this one waited.
            return self._find(key) or self._fetch(key, uri, pin)

    def _find(self, key: str) -> CachedFile | None:
        for path in self._root.glob(f"{key}-*"):
            with contextlib.suppress(FileNotFoundError):
                held = path.open("rb")
                fcntl.flock(held, fcntl.LOCK_SH)
                if _same(path, held):
                    _mark_used(path)
                    return CachedFile(path, path.name.rpartition("-")[2], held)
                held.close()
        return None

    def _fetch(self, key: str, uri: str, pin: SourcePin) -> CachedFile:
        began = time.perf_counter()
        part = self._root / f"{key}{PART}"
        sources = self._sources or Sources.to_fetch(self._settings)
        with contextlib.ExitStack() as unless_kept:
            file = unless_kept.enter_context(part.open("w+b"))
            unless_kept.callback(part.unlink, missing_ok=True)
            # From now on: it must not be dropped between its renaming and its first use.
            fcntl.flock(file, fcntl.LOCK_SH)
            self._make_room(file, pin.size)
            digest = self._copied(sources, uri, pin, file)
            sync_file(file)
            final = self._root / f"{key}-{digest}"
            _mark_used(part)
            part.rename(final)
            sync_folder(self._root)
            unless_kept.pop_all()
        _log.info("source_fetched", uri=_shown(uri), bytes=pin.size, seconds=round(time.perf_counter() - began, 3))
        return CachedFile(final, digest, file)

    def _copied(self, sources: Fetcher, uri: str, pin: SourcePin, file: BinaryIO) -> str:
        """Copies the file; from the start again, after a pause, where its place is away for a moment."""
        for pause in self._pauses:
            try:
                return self._copy(sources, uri, pin, file)
            except SourceTimeout:
                raise
            except SourceUnavailable as error:
                _log.warning("source_fetch_repeated", uri=_shown(uri), error=str(error), pause=pause)
            time.sleep(pause)
            file.seek(0)
        return self._copy(sources, uri, pin, file)

    def _copy(self, sources: Fetcher, uri: str, pin: SourcePin, file: BinaryIO) -> str:
        digest, size = hashlib.sha256(), 0
        with sources.open(uri, pin) as source:
            while size <= pin.size and (chunk := source.read(CHUNK)):
                size += len(chunk)
                digest.update(chunk)
                with disk_space():
                    file.write(chunk)
        found = SourcePin(size=size, sha256=digest.hexdigest())
        # A file that is written to while it is read has one pin before, and another after.
        after = pin if pin.sha256 is not None else sources.pin(pin.resolved or uri)
        if not pin.matches(found) or not pin.matches(after):
            raise SourceChanged(
                "The file is no longer the one that was pinned.",
                given=f"{_shown(uri)}: {size} bytes, sha256 {digest.hexdigest()}",
                allowed=f"{pin.size} bytes" + (f", sha256 {pin.sha256}" if pin.sha256 else f", {pin.etag}"),
                hint="Submit the job again, or register the model again, to take the file as it is now.",
            )
        return digest.hexdigest()

    def _make_room(self, file: BinaryIO, size: int) -> None:
        """Drops files until so many bytes have room, and takes the room."""
        bound = self._settings.source_cache_bytes
        if size > bound:
            raise SourceTooLarge(
                "The file is larger than the disk cache of the workers.",
                given=f"{size} bytes",
                allowed=f"{bound} bytes",
                hint="An operator can raise IHVP_SOURCE_CACHE_BYTES.",
            )
        with self._locked(self._root / f"room{LOCK}"):
            self._drop_unfinished()
            sizes = self._sizes()
            total = sum(status.st_size for status in sizes.values())
            free = shutil.disk_usage(self._root).free - self._settings.keep_free_bytes
            for path in sorted(sizes, key=lambda path: sizes[path].st_mtime):
                if total + size <= bound and size <= free:
                    break
                if path.suffix not in {PART, LOCK} and self._drop(path):
                    total, free = total - sizes[path].st_size, free + sizes[path].st_size
            if total + size > bound or size > free:
                raise OutOfSpace(
                    "The disk has no room for a referenced file: what the cache holds is in use.",
                    given=f"{size} bytes",
                    allowed=f"{max(0, min(bound - total, free))} bytes",
                    hint="An operator can raise IHVP_SOURCE_CACHE_BYTES, or free space on the disk.",
                )
            # Counts from now on, for those who look for room meanwhile.
            file.truncate(size)

    def _sizes(self) -> dict[Path, os.stat_result]:
        found = {}
        for path in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat()
        return found

    def _drop(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                if not _try_lock(file):
                    return False
                path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _drop_unfinished(self) -> None:
        """Removes what workers that were killed have left."""
        for part in self._root.glob(f"*{PART}"):
            with _lock(part.with_suffix(LOCK)) as held:
                if held:
                    part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Holds a lock that only one process of the machine has at a time; a killed one has none."""
        deadline = time.monotonic() + self._settings.source_fetch_s
        while True:
            with _lock(path) as held:
                if held:
                    yield
                    return
            if time.monotonic() > deadline:
                raise SourceTimeout(
                    "Another worker has been fetching this file for too long.",
                    allowed=f"{self._settings.source_fetch_s:g} s",
                    hint="An operator can raise IHVP_SOURCE_FETCH_S.",
                )
            time.sleep(POLL_S)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Tries to hold a lock, whose file goes with it; yields whether it is held."""
    with path.open("ab") as file:
        # One that was waited for may have been removed by who had it: then it is no lock any more.
        held = _try_lock(file) and _same(path, file)
        try:
            yield held
        finally:
            if held:
                path.unlink(missing_ok=True)


def _mark_used(path: Path) -> None:
    # By our own clock: the file system's ticks too slowly to tell which of two was used later.
    os.utime(path, ns=(time.time_ns(), time.time_ns()))


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(path: Path, file: BinaryIO) -> bool:
    try:
        found, mine = path.stat(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (found.st_ino, found.st_dev) == (mine.st_ino, mine.st_dev)


def _key(uri: str, pin: SourcePin) -> str:
    return hashlib.sha256(f"{uri}\n{pin.model_dump_json()}".encode()).hexdigest()[:32]


def _shown(uri: str) -> str:
    return uri.partition("?")[0]
