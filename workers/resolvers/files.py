"""Files that a spec refers to, blobs or not, as paths on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ihvp.blobs.store import BlobStore
from ihvp.errors import InvalidReference
from ihvp.sources.pin import SourcePin
from ihvp.sources.pinning import pinned_folder
from ihvp.sources.uri import is_source_uri
from workers.resolvers.source_cache import CachedFile, SourceCache

__all__ = ["FileAccess", "Files", "local_folder"]


class FileAccess(Protocol):
    """Where a reference's file lies on this machine; a blob store is one, for blobs."""

    def local_path(self, source: str, /) -> Path:
        """A file for mapping into memory, never to be written to.

        Args:
            source: ``sha256:<hex>`` or a URI, without ``#name``.

        Raises:
            BlobNotFound: No blob has this digest.
            IhvpError: The file cannot be fetched; see ``SourceCache.get``.
        """


class Files:
    """Blobs, and the pinned files of one spec, fetched when they are first asked for.

    As long as it is open, or referred to, what it has fetched stays in the cache.

    Args:
        blobs: The blobs.
        cache: Fetches and keeps the others.
        pins: Of the spec.
    """

    def __init__(self, blobs: BlobStore, cache: SourceCache, pins: Mapping[str, SourcePin]) -> None:
        self._blobs = blobs
        self._cache = cache
        self._pins = pins
        self._held: dict[str, CachedFile] = {}

    def local_path(self, source: str, /) -> Path:
        """See ``FileAccess.local_path``."""
        if not is_source_uri(source):
            return self._blobs.local_path(source)
        if source not in self._held:
            if source not in self._pins:
                raise InvalidReference("This file was not pinned when the job was submitted.", given=source[:200])
            self._held[source] = self._cache.get(source, self._pins[source])
        return self._held[source].path

    def folder(self, source: str, /) -> dict[str, str]:
        """The URIs of a pinned folder's files by their names in it; empty where it is no folder."""
        return {} if source in self._pins else pinned_folder(source, self._pins)

    def fetch(self) -> None:
        """Brings all files of the spec here, so that nothing is asked of the network any more.

        Raises:
            IhvpError: One cannot be fetched; see ``SourceCache.get``.
        """
        for source in self._pins:
            self.local_path(source)

    def fetched(self) -> dict[str, SourcePin]:
        """The pins of the files that were asked for, with the digests of their bytes."""
        return {uri: self._pins[uri].model_copy(update={"sha256": file.sha256}) for uri, file in self._held.items()}

    def close(self) -> None:
        """Lets the cache drop the files; mappings of them stay sound."""
        for file in self._held.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def local_folder(files: FileAccess, uri: str, pins: Mapping[str, SourcePin]) -> Iterator[Path]:
    """A folder on this machine with the pinned files of a folder reference, under the names they have there.

    Args:
        files: Fetches them.
        uri: The folder.
        pins: Of the spec: ``ModelSpec.sources``.

    Yields:
        The folder, of links to files that must not be written to; gone afterwards, while mappings stay sound.

    Raises:
        InvalidReference: Nothing of the folder was pinned.
    """
    members = pinned_folder(uri, pins)
    if not members:
        raise InvalidReference("This names no folder whose files were pinned at submit.", given=uri[:200])
    with tempfile.TemporaryDirectory(prefix="ihvp-") as place:
        folder = Path(place)
        for name, file in members.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(files.local_path(file))
        yield folder
