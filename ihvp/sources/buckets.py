"""``s3://`` and ``gs://`` through fsspec: buckets that the operator has listed, with the process' own credentials."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from ihvp.errors import (
    SetupError,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotAllowed,
    SourceNotFound,
    SourceTimeout,
    SourceTruncated,
    SourceUnavailable,
)
from ihvp.sources.pin import SourcePin
from ihvp.sources.uri import BucketUri

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ihvp.sources.source import Patience

__all__ = ["BucketFiles"]

PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs"}
EXTRAS: Final = {"s3": "s3", "gs": "gcs"}
TRIES: Final = 2


class BucketFiles:
    """Objects of S3 or Google Cloud Storage; see ``Source``.

    Endpoint, region and credentials are those of the process' environment (``AWS_ENDPOINT_URL``,
    ``AWS_ACCESS_KEY_ID``, ``GOOGLE_APPLICATION_CREDENTIALS``, …).

    Args:
        scheme: ``s3`` or ``gs``.
        allowed: ``s3://bucket`` and ``s3://bucket/folder``, those of other schemes too.
        patience: How long to wait.
        block: Bytes that are asked for at a time.
    """

    def __init__(self, scheme: str, allowed: Iterable[str], patience: Patience, block: int) -> None:
        self._scheme = scheme
        self._allowed = [place.rstrip("/") for place in allowed if place.startswith(f"{scheme}://")]
        self._patience = patience
        self._block = block

    def is_folder(self, uri: str) -> bool:
        """See ``Source.is_folder``: no object has this key, and some have keys that begin so."""
        path = self._admitted(uri)
        with self.explained(uri):
            return bool(self._store.info(path)["type"] == "directory")

    def files(self, uri: str) -> list[str]:
        """See ``Source.files``."""
        path = self._admitted(uri)
        with self.explained(uri):
            found = self._store.find(path)
        return sorted(name.removeprefix(path).lstrip("/") for name in found)

    def pin(self, uri: str) -> SourcePin:
        """See ``Source.pin``."""
        path = self._admitted(uri)
        with self.explained(uri):
            facts = self._store.info(path)
        if facts["type"] == "directory":
            raise SourceNotFound("This is a folder, not a file.", given=uri)
        # Of Google's two, the generation is new with each write, whatever is written.
        etag = facts.get("generation") or facts.get("ETag") or facts.get("etag")
        return SourcePin(size=int(facts["size"]), etag=None if etag is None else str(etag))

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """See ``Source.open``."""
        pin.require(self.pin(uri), uri, what="object")
        with self.explained(uri):
            # s3fs then asks for every block with If-Match.
            inner = self._store.open(self._admitted(uri), "rb", block_size=self._block, cache_type="readahead")
        return cast("BinaryIO", io.BufferedReader(_BucketFile(inner, self, uri, pin.size)))

    @property
    def _store(self) -> Any:
        return connected(self._scheme, self._patience.answer_s)

    def _admitted(self, uri: str) -> str:
        """What fsspec calls it, if the operator has opened it."""
        self._patience.left()
        place = BucketUri.parse(uri)
        path = f"{place.bucket}/{place.key.rstrip('/')}"
        if not any(f"{self._scheme}://{path}/".startswith(f"{allowed}/") for allowed in self._allowed):
            raise SourceNotAllowed(
                "References may not lead to this bucket.",
                given=uri,
                allowed="buckets that the operator has listed",
                hint="An operator lists buckets in IHVP_SOURCE_BUCKETS.",
            )
        return path

    @contextmanager
    def explained(self, uri: str) -> Iterator[None]:
        """Says in our words what the libraries say in many."""
        try:
            yield
        except FileNotFoundError:
            raise SourceNotFound("There is no such object.", given=uri) from None
        except PermissionError as error:
            raise _forbidden(uri, error) from None
        except TimeoutError:
            raise self._patience.over(uri) from None
        except Exception as error:
            raise self._fault(uri, error) from None

    def _fault(self, uri: str, error: Exception) -> Exception:
        """What an error of botocore, aiohttp or fsspec means: told by its name, for they are not imported here."""
        if isinstance(error, SourceError | SourceUnavailable | SetupError):
            return error
        names = " ".join(kind.__name__ for kind in type(error).__mro__)
        text = f"{uri}: {type(error).__name__}: {error}"[:300]
        if "FileExpired" in names:
            return SourceChanged("The object has changed since it was pinned.", given=uri)
        if "Credential" in names or "RefreshError" in names:
            return _forbidden(uri, error)
        if "Timeout" in names:
            return self._patience.over(uri)
        if isinstance(error, OSError) or "Connect" in names or "Endpoint" in names or "ClientError" in names:
            return SourceUnavailable("The object store does not answer.", given=text)
        return SourceError("The object cannot be read.", given=text)


@lru_cache(maxsize=4)
def connected(scheme: str, answer_s: float) -> Any:
    """Fsspec's file system, made once a process: a client of S3 takes half a second and tens of megabytes.

    Raises:
        SetupError: Its package is not installed.
    """
    try:
        importlib.import_module(PACKAGES[scheme])
        import fsspec
    except ImportError:
        raise SetupError(
            f"{scheme}:// references need the package {PACKAGES[scheme]}.",
            hint=f"pip install 'ihvp[{EXTRAS[scheme]}]' for the API and the workers.",
        ) from None
    network = {"connect_timeout": answer_s, "read_timeout": answer_s, "retries": {"max_attempts": 1}}
    options = {"config_kwargs": network} if scheme == "s3" else {"timeout": answer_s}
    # Nobody is told what somebody else's listing said a while ago.
    made = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
    made.retries = TRIES  # s3fs would try five times, whoever waits
    return made


class _BucketFile(io.RawIOBase):
    """A file of fsspec whose errors are ours."""

    def __init__(self, inner: Any, place: BucketFiles, uri: str, size: int) -> None:
        super().__init__()
        self._inner = inner
        self._place = place
        self._uri = uri
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        for left in reversed(range(TRIES)):
            try:
                with self._place.explained(self._uri):
                    data = self._inner.read(len(view))
                break
            except SourceTimeout:
                raise
            except SourceUnavailable:
                if not left:
                    raise
        if not data and len(view) and self.tell() < self._size:
            raise SourceTruncated("The object ended before its size.", given=self._uri, allowed=f"{self._size} bytes")
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _forbidden(uri: str, error: Exception) -> SourceForbidden:
    return SourceForbidden(
        "The object store does not let the service read this.",
        given=f"{uri}: {error}"[:300],
        hint="An operator gives credentials to API and workers, in the environment; see docs/references.md.",
    )
