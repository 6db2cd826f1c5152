"""The zip around an exported program: names, sizes and kinds of its entries are checked before anything is read."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ihvp.errors import InvalidExport

__all__ = ["Archive", "open_archive"]

MOST_ENTRIES: Final = 100_000
MOST_JSON_BYTES: Final = 16 * 1024 * 1024
MOST_DIRECTORY_BYTES: Final = 16 * 1024 * 1024
MOST_NAME: Final = 512
_PIECE: Final = 1 << 20

# What torch.export.save writes. Sample inputs are pickled; they are never read.
_KNOWN: Final = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
    r"|data/sample_inputs/model\.pt"
)
_AGAIN: Final = "Save it anew with torch.export.save of torch 2.13."


class Archive:
    """An archive whose every entry is known and lies as it is in the file: nothing is compressed or unpickled.

    Args:
        file: The zip, open.

    Raises:
        InvalidExport: It is no such archive.
    """

    def __init__(self, file: BinaryIO) -> None:
        bounded = _Bounded(file)
        try:
            # It has what is asked of it; that is not all of a file.
            self._zip = zipfile.ZipFile(cast("BinaryIO", bounded))
            bounded.bound = None
        except InvalidExport:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise InvalidExport("This is no zip archive.", given=str(error)[:200], hint=_AGAIN) from None
        size = file.seek(0, 2)
        entries = self._zip.infolist()
        if len(entries) > MOST_ENTRIES:
            raise InvalidExport("The archive has too many entries.", given=len(entries), allowed=MOST_ENTRIES)
        self._entries: dict[str, zipfile.ZipInfo] = {}
        roots: set[str] = set()
        for entry in entries:
            root, name = _split(entry)
            roots.add(root)
            if name in self._entries:
                raise InvalidExport("The archive has an entry twice.", given=entry.filename[:MOST_NAME])
            self._entries[name] = entry
        if len(roots) != 1:
            raise InvalidExport("All entries lie in one folder.", given=", ".join(sorted(roots))[:200] or "no entry")
        # As nothing is compressed, entries that claim more bytes than there are lie, or lie on each other.
        if sum(entry.file_size for entry in entries) > size:
            raise InvalidExport("The entries claim more bytes than the archive has.", given=f"{size} bytes in all")
        if self.text("archive_format") != "pt2":
            raise InvalidExport("This is no archive of torch.export.", given=self.text("archive_format"), hint=_AGAIN)
        if self.text("byteorder") != "little":
            raise InvalidExport("Weights are little-endian.", given=self.text("byteorder"), allowed="little")

    def size(self, name: str) -> int:
        """Bytes of an entry.

        Raises:
            InvalidExport: There is none of this name.
        """
        return self._entry(name).file_size

    def read(self, name: str) -> bytearray:
        """The bytes of an entry, checked against their checksum.

        Raises:
            InvalidExport: There is none of this name, or the archive is damaged.
        """
        entry = self._entry(name)
        try:
            content = bytearray(entry.file_size)
            with self._zip.open(entry) as stream:
                end = 0
                # Up to the empty read: with it the checksum is compared.
                while part := stream.read(_PIECE):
                    content[end : end + len(part)] = part
                    end += len(part)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise InvalidExport("The archive is damaged.", given=f"{name}: {error}"[:200], hint=_AGAIN) from None
        if end != entry.file_size:
            raise InvalidExport("An entry is not as long as it claims.", given=name)
        return content

    def text(self, name: str) -> str:
        """A short entry's text."""
        if self.size(name) > MOST_NAME:
            raise InvalidExport("This entry is a word.", given=f"{name}: {self.size(name)} bytes")
        return self.read(name).decode(errors="replace").strip()

    def json(self, name: str) -> dict[str, Any]:
        """An entry that is a JSON object.

        Raises:
            InvalidExport: It is none, or too large.
        """
        if self.size(name) > MOST_JSON_BYTES:
            raise InvalidExport("The program is too large.", given=self.size(name), allowed=MOST_JSON_BYTES)
        try:
            document = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise InvalidExport("An entry is no JSON.", given=f"{name}: {error}"[:200], hint=_AGAIN) from None
        if not isinstance(document, dict):
            raise InvalidExport("An entry is no JSON object.", given=name)
        return document

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._entries[name]
        except KeyError:
            raise InvalidExport("The archive lacks an entry.", given=name[:MOST_NAME], hint=_AGAIN) from None


class _Bounded:
    """A file of which no more is read at a time than a bound: a zip says itself how long its directory is.

    Args:
        file: Seekable.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bound: int | None = MOST_DIRECTORY_BYTES
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """As a file's, within the bound."""
        if self.bound is not None and size > self.bound:
            raise InvalidExport("The directory of the archive is too large.", given=size, allowed=self.bound)
        return self._file.read(self.bound if self.bound is not None and size < 0 else size)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive in a file; see :class:`Archive`."""
    with path.open("rb") as file:
        yield Archive(file)


def _split(entry: zipfile.ZipInfo) -> tuple[str, str]:
    """The folder that all entries share, and the entry's name in it."""
    root, mark, name = entry.filename.partition("/")
    outside = not root or ".." in entry.filename.split("/") or "\\" in entry.filename or "\0" in entry.orig_filename
    if len(entry.filename) > MOST_NAME or outside:
        raise InvalidExport("An entry's name leads out of the archive.", given=entry.filename[:MOST_NAME])
    if not mark or not _KNOWN.fullmatch(name):
        raise InvalidExport(
            "The archive has an entry that no plain program has.",
            given=entry.filename[:MOST_NAME],
            allowed="the graph as JSON, weights and constants as raw bytes",
            hint="Tensor subclasses, custom objects and compiled code are not read. " + _AGAIN,
        )
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 0x1:
        raise InvalidExport("Entries are stored as they are, not compressed.", given=entry.filename, hint=_AGAIN)
    return root, name
