"""npz archives: what arrays they hold and where, from the archive's directory and each array's own header."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import replace
from typing import BinaryIO, Final

from ihvp.errors import InvalidTensor
from ihvp.tensors import MAX_HEADER, NPY_MAGIC, TensorHeader, read_npy_header

__all__ = ["UNREADABLE", "member_name", "npz_headers", "open_archive"]

MOST_MEMBERS: Final = 10_000
LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
LOCAL_MAGIC: Final = b"PK\x03\x04"
ENCRYPTED: Final = 0x1
UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    OSError,
    ValueError,
)
SUFFIX: Final = ".npy"


class _Capped:
    """A file whose reads are bounded: an archive's directory is read in one go, at the length that it claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As many bytes, if that is no more than a header may have."""
        if size < 0:
            place = self._file.tell()
            size = self._file.seek(0, 2) - place
            self._file.seek(place)
        if size > MAX_HEADER:
            raise zipfile.BadZipFile("its directory is too long")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As the file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the file's."""
        return self._file.tell()

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """The file stays open: it is its opener's."""


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """The archive of an open file.

    Raises:
        InvalidTensor: It is damaged.
    """
    try:
        return zipfile.ZipFile(_Capped(file))
    except UNREADABLE as error:
        raise _damaged(str(error)) from None


def npz_headers(file: BinaryIO) -> list[TensorHeader]:
    """The arrays of an archive; those that are deflated are ``packed`` and have no place in the file.

    An array that cannot be read has a ``fault``: it costs the others nothing.

    Raises:
        InvalidTensor: The archive is damaged, or holds no array.
    """
    size = file.seek(0, 2)
    archive = open_archive(file)
    members = [info for info in archive.infolist() if info.filename.endswith(SUFFIX)]
    if not members:
        names = ", ".join(info.filename[:50] for info in archive.infolist()[:5])
        raise InvalidTensor(
            "The zip file holds no array: it is no npz file.",
            given=names or "an empty archive",
            allowed="members whose names end in .npy",
            hint="Write it with numpy.savez or numpy.savez_compressed. A PyTorch checkpoint is never unpickled: "
            "save its tensors with safetensors.",
        )
    if len(members) > MOST_MEMBERS:
        raise InvalidTensor(
            "The npz file holds too many arrays.", given=str(len(members)), allowed=f"at most {MOST_MEMBERS}"
        )
    found = []
    for info in members:
        name = member_name(info)
        try:
            header = _stored(file, info, size) if info.compress_type == zipfile.ZIP_STORED else _packed(archive, info)
        except InvalidTensor as error:
            found.append(TensorHeader(name, "unknown", (), 0, 0, fault=str(error)))
        else:
            found.append(replace(header, name=name))
    return found


def member_name(info: zipfile.ZipInfo) -> str:
    """What ``numpy.load`` calls an array."""
    return info.filename.removesuffix(SUFFIX)


def _stored(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> TensorHeader:
    _check_flags(info)
    if not 0 <= info.header_offset <= size:
        raise _damaged(f"{info.filename[:100]!r} lies outside the file")
    file.seek(info.header_offset)
    local = file.read(LOCAL_HEADER.size)
    if len(local) < LOCAL_HEADER.size:
        raise _damaged("it ends within a member's header")
    magic, name_length, extra_length = LOCAL_HEADER.unpack(local)
    start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    end = start + info.file_size
    if magic != LOCAL_MAGIC or info.compress_size != info.file_size or end > size:
        raise _damaged(f"{info.filename[:100]!r} is not where the directory says")
    file.seek(start)
    if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
        raise _damaged(f"{info.filename[:100]!r} is no npy array")
    return read_npy_header(file, end)


def _packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> TensorHeader:
    _check_flags(info)
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise _damaged(f"{info.filename[:100]!r} is packed in a way that numpy does not use")
    try:
        with archive.open(info) as member:
            if member.read(len(NPY_MAGIC)) != NPY_MAGIC:
                raise _damaged(f"{info.filename[:100]!r} is no npy array")
            header = read_npy_header(member, info.file_size)  # type: ignore[arg-type]
    except UNREADABLE as error:
        if isinstance(error, InvalidTensor):
            raise
        raise _damaged(str(error)) from None
    return replace(header, packed=True)


def _check_flags(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & ENCRYPTED:
        raise InvalidTensor(
            "The npz file is encrypted.", given=info.filename[:100], hint="Save it without a password."
        )


def _damaged(how: str) -> InvalidTensor:
    return InvalidTensor(
        "The npz file cannot be read.", given=how[:200], allowed="what numpy.savez writes", hint="Send it again."
    )
