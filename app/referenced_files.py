"""Files that a request refers to, blobs or not, as the API reads them: headers, and values where they are few."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ihvp.errors import InvalidReference
from ihvp.sources.pinning import pin_references, pinned_folder
from ihvp.sources.uri import is_source_uri, scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from ihvp.blobs.store import BlobAccess, BlobWriter
    from ihvp.sources.pin import SourcePin
    from ihvp.sources.sources import Sources
    from ihvp.tensors import TensorHeader

__all__ = ["ReferencedFiles"]


class ReferencedFiles:
    """Blobs by digest, and pinned files by URI. Blocking: use it in a thread.

    Args:
        blobs: Those that the caller may see.
        sources: The places that the operator has opened.
    """

    def __init__(self, blobs: BlobAccess, sources: Sources) -> None:
        self._blobs = blobs
        self._sources = sources
        self._pins: dict[str, SourcePin] = {}
        self._headers: dict[str, list[TensorHeader]] = {}
        self.patience = sources.patience

    def pin(self, uris: Iterable[str], given: Mapping[str, SourcePin]) -> dict[str, SourcePin]:
        """Pins files, those of folders among them, so that they can be opened.

        Args:
            uris: Of files and folders.
            given: Pins that the caller has sent.

        Returns:
            A pin for each file.

        Raises:
            IhvpError: One cannot be pinned; see ``ihvp.sources.pinning.pin_references``.
        """
        pins = pin_references(uris, given, self._sources)
        self._pins |= pins
        return pins

    def names_in(self, uri: str) -> list[str]:
        """The files of a folder that are there now, pinned or not; see ``ihvp.sources.source.Source.files``."""
        return self._sources.files(uri)

    def open(self, source: str, /) -> BinaryIO:
        """A file's bytes, seekable.

        Args:
            source: ``sha256:<hex>`` or a pinned URI, without ``#name``.

        Raises:
            BlobNotFound: No blob has this digest.
            SourceChanged: The file is not the one that was pinned any more.
            IhvpError: It cannot be read; see ``ihvp.sources.source.Source``.
        """
        if not is_source_uri(source):
            return self._blobs.open(source)
        if source not in self._pins:
            raise InvalidReference(
                "A tensor is taken from a file, and this is a folder.", given=source[:200], allowed="the URI of a file"
            )
        return self._sources.open(source, self._pins[source])

    def headers(self, source: str, read: Callable[[], list[TensorHeader]], /) -> list[TensorHeader]:
        """What a file or folder holds, read once however many columns of it are asked for."""
        if source not in self._headers:
            self._headers[source] = read()
        return self._headers[source]

    def folder(self, source: str, /) -> dict[str, str]:
        """The URIs of a pinned folder's files by their names in it; empty where it is no folder."""
        return {} if source in self._pins else pinned_folder(source, self._pins)

    def is_remote(self, source: str, /) -> bool:
        """Whether reading it goes over a network."""
        return is_source_uri(source) and scheme_of(source) != "file"

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """See ``BlobAccess.writer``."""
        with self._blobs.writer() as writer:
            yield writer
