"""What can be wrong with an upload that is sent in parts."""

from __future__ import annotations

from ihvp.errors.base import IhvpError
from ihvp.errors.input import InvalidInput
from ihvp.errors.service import Conflict, Gone, NotFound, TooManyRequests, Unavailable

__all__ = [
    "ChecksumMismatch",
    "OffsetMismatch",
    "TooManyUploads",
    "UnsupportedChecksum",
    "UnsupportedMediaType",
    "UnsupportedTusVersion",
    "UploadExpired",
    "UploadLocked",
    "UploadNotFound",
    "UploadStalled",
]


class ChecksumMismatch(InvalidInput):
    """The part does not have the checksum it was sent with."""

    code = "checksum_mismatch"


class UnsupportedChecksum(InvalidInput):
    """The checksum's algorithm is not offered, or it is not written as it has to be."""

    code = "unsupported_checksum"


class UploadNotFound(NotFound):
    """No upload has this address."""

    code = "upload_not_found"


class OffsetMismatch(Conflict):
    """The part does not begin where the bytes that are there end."""

    code = "offset_mismatch"


class UploadExpired(Gone):
    """The upload was not continued in time."""

    code = "upload_expired"


class UploadLocked(Unavailable):
    """Another request is writing to the upload."""

    code = "upload_locked"


class UploadStalled(Unavailable):
    """No bytes came for too long; those that had come are kept."""

    code = "upload_stalled"


class TooManyUploads(TooManyRequests):
    """As many uploads are under way as the service lets be."""

    code = "too_many_uploads"


class UnsupportedMediaType(IhvpError):
    """The body is of another media type than this address takes."""

    code = "unsupported_media_type"


class UnsupportedTusVersion(IhvpError):
    """The request does not speak the version of tus that the service speaks."""

    code = "unsupported_tus_version"
