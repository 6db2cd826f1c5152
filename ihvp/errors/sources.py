"""What goes wrong with files outside the blob store."""

from __future__ import annotations

from ihvp.errors.input import InvalidInput
from ihvp.errors.service import Unavailable

__all__ = [
    "SourceChanged",
    "SourceError",
    "SourceForbidden",
    "SourceNotAllowed",
    "SourceNotFound",
    "SourceTimeout",
    "SourceTooLarge",
    "SourceTruncated",
    "SourceUnavailable",
]


class SourceError(InvalidInput):
    """A file that a reference names cannot be used."""

    code = "source_unusable"


class SourceNotFound(SourceError):
    """There is no such file."""

    code = "source_not_found"


class SourceForbidden(SourceError):
    """The place that holds the file does not let the service read it."""

    code = "source_forbidden"


class SourceNotAllowed(SourceError):
    """The operator has not opened this place to references."""

    code = "source_not_allowed"


class SourceChanged(SourceError):
    """The file is no longer the one that was pinned."""

    code = "source_changed"


class SourceTooLarge(SourceError):
    """The file is larger than the service takes."""

    code = "source_too_large"


class SourceTruncated(SourceError):
    """The file ended before its size."""

    code = "source_truncated"


class SourceUnavailable(Unavailable):
    """The place that holds the file does not answer."""

    code = "source_unavailable"


class SourceTimeout(SourceUnavailable):
    """The place that holds the file answers too slowly."""

    code = "source_timeout"
