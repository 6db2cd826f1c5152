"""How files outside the blob store are referred to: syntax only, nothing is looked up here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from ihvp.errors import InvalidReference

__all__ = [
    "SCHEMES",
    "SOURCE_PATTERN",
    "BucketUri",
    "HuggingFaceUri",
    "MlflowUri",
    "check_source_uri",
    "file_path",
    "is_reference",
    "is_source_uri",
    "join_uri",
    "scheme_of",
]

SCHEMES: Final = ("file", "https", "http", "s3", "gs", "hf", "mlflow")
MAX_LENGTH: Final = 2048
SOURCE_PATTERN: Final = rf"(?:{'|'.join(SCHEMES)})://[^#\s\\]{{1,{MAX_LENGTH - 10}}}"

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,253}[a-z0-9]")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_REPOSITORY_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_MODEL: Final = re.compile(r"[^@/:]{1,256}")
_ALIAS: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,255}")


def is_source_uri(text: str) -> bool:
    """Whether a reference names a file or folder outside the blob store."""
    return "://" in text and text.partition("://")[0] in SCHEMES


def is_reference(text: str) -> bool:
    """Whether a text is meant as a reference rather than as the path of a file to upload; it may be a wrong one."""
    return text.startswith("sha256:") or "://" in text


def scheme_of(uri: str) -> str:
    """``file``, ``https``, …"""
    return uri.partition("://")[0]


def check_source_uri(text: str) -> str:
    """A URI of a file or folder, without ``#name``, checked.

    Raises:
        InvalidReference: It is written otherwise; says how it is.
    """
    if not re.fullmatch(SOURCE_PATTERN, text) or not text.isprintable():
        raise InvalidReference(
            "This is not a reference to a file.",
            given=text[:200],
            allowed=", ".join(f"{scheme}://" for scheme in SCHEMES),
            hint="A space is written %20, a # within a name %23, and a % itself %25.",
        )
    match scheme_of(text):
        case "file":
            file_path(text)
        case "http" | "https":
            _check_web(text)
        case "s3" | "gs":
            BucketUri.parse(text)
        case "hf":
            HuggingFaceUri.parse(text)
        case _:
            MlflowUri.parse(text)
    return text


def join_uri(folder: str, name: str) -> str:
    """The URI of a file in a folder, by its name relative to it as it is, nothing quoted."""
    return f"{folder.rstrip('/')}/{quote(name)}"


def file_path(uri: str) -> str:
    """The absolute path that ``file:///path`` names.

    Raises:
        InvalidReference: It is not absolute, names another machine, or has ``..`` in it.
    """
    authority, slash, rest = uri.removeprefix("file://").partition("/")
    path = unquote(slash + rest)
    if authority not in {"", "localhost"} or not slash or "\0" in path or ".." in path.split("/"):
        raise InvalidReference(
            "A local file is named by its absolute path.",
            given=uri[:200],
            allowed="file:///folder/name, without ..",
        )
    return path


def _check_web(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        sound = bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc:
        raise InvalidReference(
            "A file on the web is named by a host and a path, and never by a password.",
            given=uri.partition("://")[0] + "://…",
            allowed="https://host[:port]/path[?query]",
            hint="An operator gives credentials to the processes; see docs/references.md.",
        )


@dataclass(frozen=True)
class BucketUri:
    """``s3://bucket/key`` or ``gs://bucket/key``: an object, or the folder of all keys that begin so."""

    scheme: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> BucketUri:
        """Reads one.

        Raises:
            InvalidReference: It is written otherwise.
        """
        scheme, _, rest = uri.partition("://")
        bucket, _, key = unquote(rest).partition("/")
        if not _BUCKET.fullmatch(bucket) or not key.strip("/") or {"..", "."} & set(key.split("/")):
            raise InvalidReference(
                "An object is named by its bucket and key.", given=uri[:200], allowed=f"{scheme}://bucket/key"
            )
        return cls(scheme, bucket, key)


@dataclass(frozen=True)
class HuggingFaceUri:
    """``hf://org/repo@<commit>`` or ``hf://datasets/org/repo@<commit>``, and ``/path`` of a file behind it.

    Attributes:
        kind: ``models`` or ``datasets``.
        repository: ``org/repo``.
        commit: 40 hexadecimal digits: a branch or a tag moves.
        path: Of a file; empty for the folder of all.
    """

    kind: str
    repository: str
    commit: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> HuggingFaceUri:
        """Reads one.

        Raises:
            InvalidReference: It is written otherwise, or the revision is no commit.
        """
        rest = unquote(uri.removeprefix("hf://"))
        kind = "datasets" if rest.startswith("datasets/") else "models"
        name, mark, behind = rest.removeprefix("datasets/").partition("@")
        commit, _, path = behind.partition("/")
        parts = name.split("/")
        if len(parts) != 2 or not all(map(_REPOSITORY_PART.fullmatch, parts)) or ".." in path.split("/"):
            raise InvalidReference(
                "This is not a reference to a Hugging Face repository.",
                given=uri[:200],
                allowed="hf://org/repo@<commit>[/path], hf://datasets/org/repo@<commit>[/path]",
            )
        if not mark or not _COMMIT.fullmatch(commit):
            place = f"datasets/{name}" if kind == "datasets" else name
            raise InvalidReference(
                "A Hugging Face repository is named with a commit: a branch or a tag may move under a result.",
                given=uri[:200],
                allowed=f"hf://{place}@<40 hexadecimal digits>",
                hint=f"git ls-remote https://huggingface.co/{place} HEAD prints the commit.",
            )
        return cls(kind, name, commit, path)


@dataclass(frozen=True)
class MlflowUri:
    """``mlflow://models/<name>/<version>`` or ``mlflow://models/<name>@<alias>``, and ``/path`` of an artifact.

    Attributes:
        name: Of the registered model.
        version: Its version; None where an alias is given.
        alias: Stands for a version, and may move.
        path: Of an artifact of the version; empty for the folder of all.
    """

    name: str
    version: int | None
    alias: str | None
    path: str

    @classmethod
    def parse(cls, uri: str) -> MlflowUri:
        """Reads one.

        Raises:
            InvalidReference: It is written otherwise.
        """
        group, _, rest = unquote(uri.removeprefix("mlflow://")).partition("/")
        first, _, behind = rest.partition("/")
        name, mark, alias = first.partition("@")
        version, _, path = ("", "", behind) if mark else behind.partition("/")
        sound = group == "models" and _MODEL.fullmatch(name) and ".." not in path.split("/")
        exact = _ALIAS.fullmatch(alias) if mark else re.fullmatch(r"[1-9][0-9]{0,8}", version)
        if not sound or not exact:
            raise InvalidReference(
                "This is not a reference to a version of a registered MLflow model.",
                given=uri[:200],
                allowed="mlflow://models/<name>/<version>[/path] or mlflow://models/<name>@<alias>[/path]",
            )
        return cls(name, int(version) if version else None, alias or None, path)
