"""Files by HTTP: redirects that are looked at one by one, ranges, and validators that must stay the same."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

import httpx

from ihvp.addresses import AddressRules, CheckedSyncTransport
from ihvp.errors import (
    AddressNotAllowed,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotAllowed,
    SourceNotFound,
    SourceTruncated,
    SourceUnavailable,
)
from ihvp.sources.pin import SourcePin

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ihvp.sources.source import Patience

__all__ = ["WebFile", "WebReader"]

MOST_REDIRECTS: Final = 5
MOST_TRIES: Final = 3
MOST_DIGITS: Final = 18
LONGEST_VALIDATOR: Final = 512
MOST_JSON: Final = 16 * 1024 * 1024
MOST_SKIPPED: Final = 64 * 1024 * 1024
"""Bytes read past of a server that serves no ranges, to come to those that are wanted."""
BUFFER: Final = 64 * 1024
CHUNK: Final = 256 * 1024


class WebReader:
    """Sends requests for files.

    Args:
        rules: Which addresses may be reached.
        admit: Refuses a URL whose host was not opened; called for each, redirects too.
        patience: How long to wait.
        home: The URL of the server that ``headers`` are for.
        headers: Of requests to that server, never sent to another.
    """

    def __init__(
        self,
        rules: AddressRules,
        admit: Callable[[str], None],
        patience: Patience,
        home: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._admit = admit
        self._home = _origin(home)
        self._patience = patience
        self._headers = dict(headers or {})
        self._client = httpx.Client(
            transport=CheckedSyncTransport(rules, _trusted()), follow_redirects=False, trust_env=False
        )

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """An answer with a status below 400, or 416; its body is not read yet.

        Raises:
            SourceNotAllowed: The host, or one that it redirects to, is not opened.
            SourceNotFound: 404 or 410.
            SourceForbidden: 401 or 403.
            SourceUnavailable: No answer, or one of trouble over there; ``SourceTimeout`` where it is slow.
        """
        for _ in range(MOST_REDIRECTS + 1):
            self._admit(url)
            own = self._headers if _origin(url) == self._home else {}
            with self._explained(url):
                request = self._client.build_request(
                    "GET", url, headers={"Accept-Encoding": "identity", **own, **(headers or {})}
                )
                request.extensions["timeout"] = httpx.Timeout(self._patience.left()).as_dict()
                response = self._client.send(request, stream=True)
            try:
                following = response.next_request
                if following is None:
                    _check_status(response, url)
                    yield response
                    return
                url = str(following.url)
            finally:
                response.close()
        raise SourceError("The file is redirected again and again.", given=_shown(url))

    def json(self, url: str) -> tuple[Any, str | None]:
        """What an interface says, and where its next page is.

        Raises:
            SourceError: It says something else than JSON, or too much of it.
        """
        with self.get(url) as response:
            body = b""
            for chunk in self._chunks(response, url):
                body += chunk
                if len(body) > MOST_JSON:
                    raise SourceError("The server says more than is read here.", given=_shown(url))
            following = response.links.get("next", {}).get("url")
        try:
            return json.loads(body), following
        except ValueError:
            raise SourceError("The server does not answer in JSON.", given=_shown(url)) from None

    def pin(self, url: str) -> SourcePin:
        """Size and validator of a file."""
        # Not HEAD: what is signed for GET alone, or knows nothing else, answers this too.
        with self.get(url, {"Range": "bytes=0-0"}) as response:
            size = _size(response)
            if size is None:
                raise SourceError(
                    "The server does not say how large the file is.",
                    given=_shown(url),
                    allowed="answers with Content-Length or Content-Range",
                )
            return SourcePin(size=size, etag=_validator(response))

    def open(self, url: str, pin: SourcePin, *, etag: str | None) -> BinaryIO:
        """A file's bytes.

        Args:
            url: Where it is.
            pin: What was pinned.
            etag: The validator that each answer has to carry; None for any.
        """
        raw = WebFile(self, url, pin.size, etag)
        return cast("BinaryIO", io.BufferedReader(raw, BUFFER))

    @contextmanager
    def _explained(self, url: str) -> Iterator[None]:
        try:
            yield
        except AddressNotAllowed as error:
            raise SourceNotAllowed(
                "The service does not connect to private or special addresses.",
                given=_shown(url),
                allowed=error.allowed,
                hint="An operator can list hosts and networks in IHVP_SOURCE_PRIVATE_HOSTS.",
            ) from None
        except httpx.TimeoutException:
            raise self._patience.over(_shown(url)) from None
        except (httpx.TransportError, ssl.SSLError) as error:
            raise SourceUnavailable("The server does not answer.", given=f"{_shown(url)}: {error}"[:300]) from None
        except httpx.InvalidURL as error:
            raise SourceError("The file's address cannot be used.", given=f"{_shown(url)}: {error}"[:300]) from None

    @contextmanager
    def stream(self, url: str, start: int) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """An answer from a byte on, and its chunks."""
        with self.get(url, {"Range": f"bytes={start}-"}) as response:
            yield response, self._chunks(response, url)

    def _chunks(self, response: httpx.Response, url: str) -> Iterator[bytes]:
        with self._explained(url):
            for chunk in response.iter_raw(CHUNK):
                self._patience.left()
                yield chunk


@dataclass
class _Stream:
    chunks: Iterator[bytes]
    at: int
    rest: bytes = b""
    answer: ExitStack = field(default_factory=ExitStack)


class WebFile(io.RawIOBase):
    """A file that is read from where it is asked for; see ``WebReader.open``."""

    def __init__(self, reader: WebReader, url: str, size: int, etag: str | None) -> None:
        super().__init__()
        self._reader = reader
        self._url = url
        self._size = size
        self._etag = etag
        self._at = 0
        self._stream: _Stream | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; nothing is asked for before it is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Reads on; a line that drops is taken up again where it was."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._at)
        if wanted <= 0:
            return 0
        for left in reversed(range(MOST_TRIES)):
            try:
                data = self._next(wanted)
            except SourceUnavailable:
                self._hang_up()
                if not left:
                    raise
                continue
            if data:
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            self._hang_up()
        raise SourceTruncated(
            "The file ended before its size.",
            given=f"{_shown(self._url)}: {self._at} bytes",
            allowed=f"{self._size} bytes",
            hint="Try again; the server may have cut the answer short.",
        )

    def close(self) -> None:
        """Hangs up."""
        self._hang_up()
        super().close()

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.answer.close()
            self._stream = None

    def _next(self, wanted: int) -> bytes:
        stream = self._stream
        if stream is None or stream.at != self._at:
            self._hang_up()
            stream = self._stream = self._begin()
        if not stream.rest:
            stream.rest = next(stream.chunks, b"")
        data, stream.rest = stream.rest[:wanted], stream.rest[wanted:]
        stream.at += len(data)
        return data

    def _begin(self) -> _Stream:
        with ExitStack() as unless_sound:
            response, chunks = unless_sound.enter_context(self._reader.stream(self._url, self._at))
            self._check(response)
            stream = _Stream(chunks, self._at)
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                self._skip(stream)
            stream.answer = unless_sound.pop_all()
        return stream

    def _check(self, response: httpx.Response) -> None:
        size, etag = _size(response), _validator(response)
        short = response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
        if short or size not in {None, self._size} or (self._etag is not None and etag != self._etag):
            raise SourceChanged(
                "The file has changed since it was pinned.",
                given=f"{_shown(self._url)}: {size} bytes, {etag}",
                allowed=f"{self._size} bytes, {self._etag}",
                hint="Submit the job again, or register the model again, to take the file as it is now.",
            )

    def _skip(self, stream: _Stream) -> None:
        """Reads past what comes before the place, of a server that has sent the whole file."""
        if self._at > MOST_SKIPPED:
            raise SourceError(
                "The server sends whole files only, and this one is too large for that.",
                given=_shown(self._url),
                allowed="a server that serves byte ranges",
            )
        left = self._at
        while left:
            chunk = next(stream.chunks, b"")
            if not chunk:
                return
            stream.rest = chunk[left:]
            left -= min(left, len(chunk))


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Public authorities, or those in ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``; reading them takes a while."""
    return httpx.create_ssl_context()


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status < httpx.codes.BAD_REQUEST or status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return
    given = f"{_shown(url)}: {status} {response.reason_phrase}"
    if status in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
        raise SourceNotFound("There is no such file.", given=given)
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise SourceForbidden(
            "The server does not let the service read the file.",
            given=given,
            hint="An operator gives credentials to API and workers; see docs/references.md.",
        )
    if status in {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS} or status >= 500:
        raise SourceUnavailable("The server cannot send the file now.", given=given)
    raise SourceError("The server refuses to send the file.", given=given)


def _size(response: httpx.Response) -> int | None:
    """Bytes of the whole file."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    if response.status_code not in {httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE}:
        total = response.headers.get("content-length", "")
    return int(total) if total.isdecimal() and len(total) <= MOST_DIGITS else None


def _validator(response: httpx.Response) -> str | None:
    etag: str = response.headers.get("etag", "").removeprefix("W/")
    changed = response.headers.get("last-modified")
    found = etag or (f"last-modified: {changed}" if changed else None)
    # Of one that is longer than any, its digest changes as it does.
    long = found is not None and len(found) > LONGEST_VALIDATOR
    return hashlib.sha256(found.encode()).hexdigest() if found and long else found


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _shown(url: str) -> str:
    """A URL for messages: what follows the ? may be a signature."""
    return url.partition("?")[0][:300]
