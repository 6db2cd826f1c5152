"""One service over HTTP: requests that are repeated where that is safe, and answers or errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from httpx_sse import EventSource, ServerSentEvent, connect_sse
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from ihvp.client.faults import error_from_response
from ihvp.errors import ServiceUnreachable
from ihvp.wire import DeliveryPage, JobPage, ModelPage

__all__ = ["IDEMPOTENCY_KEY", "Body", "Connection"]

IDEMPOTENCY_KEY: Final = "Idempotency-Key"

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
CONNECT_TIMEOUT_S: Final = 5.0
LONGEST_PAUSE_S: Final = 2.0

Body = Callable[[], Iterable[bytes]]
T = TypeVar("T")
PageT = TypeVar("PageT", JobPage, ModelPage, DeliveryPage)


class _Busy(Exception):
    """The service answered 503 or 429."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(str(response.status_code))
        self.response = response


class Connection:
    """Sends requests to one service.

    A request is repeated, with growing pauses, when it never reached the service, and an idempotent one (by its
    method, or by a key that it carries) also when its answer was lost or was 503 or 429. A service that has never
    answered is given up at once: it is not there.

    Args:
        url: The service's address.
        timeout_s: Longest silence while an answer is read.
        retry_s: Time after which a request is not repeated any more.
        api_key: Sent with each request.
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        retry_s: float,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._answered = False
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=self.url, timeout=self._timeout(), headers=headers, transport=transport)

    def send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        body: Body | None = None,
        hold_s: float = 0.0,
    ) -> httpx.Response:
        """The answer, if its status is below 400.

        Args:
            method: GET, POST, …
            path: From ``/v1`` on, or a link that the service gave.
            params: The query; None values are left out.
            headers: Further headers.
            json: A JSON body.
            body: Makes the bytes of a body, anew for each attempt.
            hold_s: How long the service was asked to hold the answer.

        Raises:
            IhvpError: What the service refused, as the class of its code.
            ServiceUnreachable: Nothing answers.
        """

        def attempt() -> httpx.Response:
            return self._checked(
                self._http.request(
                    method,
                    path,
                    # An empty mapping would take the query of a link away.
                    params={name: value for name, value in (params or {}).items() if value is not None} or None,
                    headers=headers,
                    json=json,
                    content=body() if body else None,
                    timeout=self._timeout(hold_s),
                )
            )

        return self._persist(attempt, idempotent=method in IDEMPOTENT or IDEMPOTENCY_KEY in (headers or {}))

    def delete(self, path: str) -> None:
        """Removes what is at a path.

        Raises:
            IhvpError: What the service refused. That nothing is there is no refusal where the answer to an earlier
                try was lost: that try has removed it.
            ServiceUnreachable: Nothing answers.
        """
        lost = False

        def attempt() -> None:
            nonlocal lost
            try:
                response = self._http.request("DELETE", path, timeout=self._timeout())
            except httpx.TransportError:
                lost = True
                raise
            if not (lost and response.status_code == httpx.codes.NOT_FOUND):
                self._checked(response)

        self._persist(attempt, idempotent=True)

    def pages(self, path: str, kind: type[PageT], params: dict[str, Any] | None = None) -> Iterator[PageT]:
        """The pages of a listing, each fetched once it is needed.

        Args:
            path: Of the first one.
            kind: What a page is.
            params: The query of the first one; the links to the others have it already.
        """
        following: str | None = path
        while following is not None:
            page = kind.model_validate_json(self.send("GET", following, params=params).content)
            yield page
            following, params = page.next, None

    def download(self, path: str, into: Path, *, headers: dict[str, str] | None = None) -> httpx.Headers:
        """Writes the answer's body to a file, never holding all of it, and returns the answer's headers."""

        def attempt() -> httpx.Headers:
            with self._http.stream("GET", path, headers=headers) as response:
                if response.is_error:
                    response.read()
                self._checked(response)
                with into.open("wb") as file:
                    for chunk in response.iter_bytes(1 << 20):
                        file.write(chunk)
                return response.headers

        return self._persist(attempt, idempotent=True)

    @contextmanager
    def events(self, path: str, *, after: str | None = None) -> Iterator[Iterator[ServerSentEvent]]:
        """The server-sent events of a stream, from after an event on."""

        def attempt() -> tuple[Any, EventSource]:
            opening = connect_sse(
                self._http, "GET", path, headers={"Last-Event-ID": after} if after else {}, timeout=self._timeout(60.0)
            )
            source = opening.__enter__()
            try:
                if source.response.is_error:
                    source.response.read()
                self._checked(source.response)
            except BaseException:
                opening.__exit__(None, None, None)
                raise
            return opening, source

        opening, source = self._persist(attempt, idempotent=True)
        try:
            # 204 says that nothing follows; it has no event stream to read.
            yield iter(()) if source.response.status_code == httpx.codes.NO_CONTENT else source.iter_sse()
        finally:
            opening.__exit__(None, None, None)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _persist(self, attempt: Callable[[], T], *, idempotent: bool) -> T:
        retrying = Retrying(
            retry=retry_if_exception(partial(_worth_repeating, idempotent=idempotent)),
            wait=_pause,
            stop=self._give_up,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Busy as busy:
            raise error_from_response(busy.response) from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _checked(self, response: httpx.Response) -> httpx.Response:
        self._answered = True
        if response.status_code in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS):
            raise _Busy(response)
        if response.is_error:
            raise error_from_response(response)
        return response

    def _give_up(self, state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) >= (self._retry_s if self._answered else 0.0)

    def _timeout(self, hold_s: float = 0.0) -> httpx.Timeout:
        return httpx.Timeout(self._timeout_s, read=self._timeout_s + hold_s, connect=CONNECT_TIMEOUT_S)

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnreachable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return ServiceUnreachable(
                f"The service at {self.url} took the connection but did not answer within {self._timeout_s:g} s.",
                hint=f"{self.url}/readyz says what it waits for.",
            )
        return ServiceUnreachable(
            f"No ihvp service answers at {self.url} ({error}).",
            hint="Start one with 'ihvp up', or name another with --url or IHVP_URL.",
        )


def _worth_repeating(error: BaseException, *, idempotent: bool) -> bool:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return True  # the request never left
    return idempotent and isinstance(error, httpx.TransportError | _Busy)


_growing_pause = wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE_S)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Busy):
        asked = error.response.headers.get("retry-after", "")
        if asked.isdecimal():
            return min(float(asked), LONGEST_PAUSE_S)
    return _growing_pause(state)
