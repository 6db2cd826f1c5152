"""``file://``: regular files under the folders that the operator has listed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from ihvp.errors import SourceError, SourceForbidden, SourceNotAllowed, SourceNotFound
from ihvp.sources.pin import SourcePin
from ihvp.sources.uri import file_path

__all__ = ["LocalFiles"]


class LocalFiles:
    """Files of this machine; see ``Source``.

    Links are followed as far as they stay under a root. Devices, pipes and the like are no files.

    Args:
        roots: The folders.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = [Path(os.path.realpath(root)) for root in roots]

    def is_folder(self, uri: str) -> bool:
        """See ``Source.is_folder``."""
        return self._within(uri).is_dir()

    def files(self, uri: str) -> list[str]:
        """See ``Source.files``; files that lead out of the roots are left out."""
        folder = self._within(uri)
        if not folder.is_dir():
            raise SourceNotFound("There is no such folder.", given=uri)
        found = [
            Path(place, name).relative_to(folder).as_posix() for place, _, names in os.walk(folder) for name in names
        ]
        return sorted(name for name in found if self._admits(Path(os.path.realpath(folder / name))))

    def pin(self, uri: str) -> SourcePin:
        """See ``Source.pin``."""
        descriptor = self._open(uri)
        try:
            return _pin(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """See ``Source.open``."""
        with ExitStack() as unless_pinned:
            file = unless_pinned.enter_context(os.fdopen(self._open(uri), "rb"))
            pin.require(_pin(os.fstat(file.fileno())), uri)
            unless_pinned.pop_all()
            return file

    def _within(self, uri: str) -> Path:
        """The path without links, if it lies under a root; whether anything is there is not said of others."""
        found = Path(os.path.realpath(file_path(uri)))
        if not self._admits(found):
            raise SourceNotAllowed(
                "The file is under none of the folders that references may name.",
                given=uri,
                allowed=f"files under {len(self._roots)} folders of the operator" if self._roots else "no local file",
                hint="An operator lists the folders in IHVP_SOURCE_ROOTS; links must not lead out of them.",
            )
        return found

    def _admits(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._roots)

    def _open(self, uri: str) -> int:
        path = self._within(uri)
        try:
            # Without waiting: a pipe has no bytes until somebody writes some.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceNotFound(
                "There is no such file.", given=uri, hint="API and workers have to see it under the same path."
            ) from None
        except PermissionError:
            raise SourceForbidden("The service may not read the file.", given=uri) from None
        except OSError as error:
            raise SourceError("The file cannot be opened.", given=f"{uri}: {error.strerror}") from None
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        # Looked at again now that it is open: a folder on the way may have been made a link meanwhile.
        same = os.path.realpath(file_path(uri)) == str(path)
        if regular and same:
            return descriptor
        os.close(descriptor)
        raise SourceError("This is no regular file.", given=uri, allowed="a file")


def _pin(status: os.stat_result) -> SourcePin:
    return SourcePin(size=status.st_size, etag=f"{status.st_mtime_ns:x}-{status.st_ino:x}")
