"""Connections to the server, and the two executors that carry out calls over them.

A server that is away, does not answer in time, or cannot write becomes ``StoreUnavailable``, with its address but
never its password.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.commands.core import AsyncScript, Script
from redis.retry import Retry

from ihvp.errors import IhvpError, StoreUnavailable
from ihvp.keyvalue.calls import Call, Scripts
from ihvp.settings import Settings

__all__ = ["AsyncExecutor", "Executor", "all_values", "server_address"]

T = TypeVar("T")

MOST_CONNECTIONS: Final = 32
RETRIES: Final = 2
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.2
# Kept short, so that a link which died without a word is noticed before it is used again.
HEALTH_CHECK_S: Final = 10
# Answers that say the server cannot do its work now, although it was reached.
_NOT_NOW: Final = (
    "OOM", "MISCONF", "READONLY", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "TRYAGAIN",
    "NOAUTH", "WRONGPASS",
)  # fmt: skip


def server_address(url: str) -> str:
    """``host:port/database`` of a server's URL, for messages: without user and password."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return parts.path
    return f"{parts.hostname}:{parts.port or 6379}/{parts.path.strip('/') or 0}"


def _options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": settings.store_timeout_s,
        "socket_connect_timeout": settings.store_timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "client_name": settings.namespace,
    }
    if not settings.redis_url.startswith("unix:"):
        options["socket_keepalive"] = True
        options["socket_keepalive_options"] = _keepalive()
    return options


def _keepalive() -> dict[int, int]:
    wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=LONGEST_PAUSE_S, base=FIRST_PAUSE_S)


# A refused or broken link is tried again at once; an unanswered one is not, or each caller would wait a multiple
# of the timeout while the server is away. Scripts are safe to repeat: see ``op`` in ihvp/jobs/lua/prelude.lua.
def _blocking_client(settings: Settings) -> redis.Redis:
    retry = Retry(_backoff(), RETRIES, supported_errors=(redis.exceptions.ConnectionError,))
    return redis.Redis.from_url(settings.redis_url, retry=retry, **_options(settings))


def _awaiting_client(settings: Settings) -> redis.asyncio.Redis:
    retry = AsyncRetry(_backoff(), RETRIES, supported_errors=(redis.exceptions.ConnectionError,))
    # Blocking: a burst of callers waits its turn, where the plain pool would refuse the hundred and first.
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=MOST_CONNECTIONS,
        timeout=settings.store_timeout_s,
        retry=retry,
        **_options(settings),
    )
    return redis.asyncio.Redis.from_pool(pool)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise _unavailable(address, str(error)) from error
    except redis.exceptions.ResponseError as error:
        said = str(error)
        # redis-py strips the prefix where it has a class for it; Lua puts its own words around it.
        known = isinstance(error, redis.exceptions.ReadOnlyError | redis.exceptions.OutOfMemoryError)
        if known or any(word in said for word in _NOT_NOW):
            raise _unavailable(address, said) from error
        raise


def _unavailable(address: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The job store at {address} does not answer: {reason.rstrip('.')}.",
        hint="Nothing that was accepted is lost; try again in a moment.",
    )


def _values(calls: Sequence[Call[T]], answers: Sequence[Any]) -> list[T | IhvpError]:
    values: list[T | IhvpError] = []
    for call, answer in zip(calls, answers, strict=True):
        if isinstance(answer, redis.exceptions.RedisError):
            raise answer
        try:
            values.append(call.parse(answer))
        except IhvpError as error:
            values.append(error)
    return values


def all_values(outcomes: Sequence[T | IhvpError]) -> list[T]:
    """The values of calls none of which can fail; raises the first error where one did."""
    values: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, IhvpError):
            raise outcome
        values.append(outcome)
    return values


def _forgotten(answers: Sequence[Any]) -> list[int]:
    """Which of a transaction's scripts the server did not know."""
    return [at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]


class Executor:
    """Carries out calls, blocking. Threads may share it.

    Args:
        settings: Where the server is, and its namespace.
        package: The package whose Lua scripts the calls name.
    """

    def __init__(self, settings: Settings, package: str) -> None:
        self._address = server_address(settings.redis_url)
        # The braces make every key of a namespace fall into one slot of a cluster.
        self._keys = [f"{{{settings.namespace}}}"]
        self._client = _blocking_client(settings)
        scripts = Scripts(package)
        self._scripts: dict[str, Script] = {
            name: self._client.register_script(scripts.source(name)) for name in scripts.names()
        }

    def run(self, call: Call[T]) -> T:
        """One round trip.

        Raises:
            StoreUnavailable: The server cannot be reached or cannot do it now.
        """
        with _translated(self._address):
            if call.is_script:
                answer = self._scripts[call.name](keys=self._keys, args=call.args)
            else:
                answer = self._client.execute_command(call.name, *call.args)  # type: ignore[no-untyped-call]
        return call.parse(answer)

    def run_all(self, calls: Sequence[Call[T]]) -> list[T | IhvpError]:
        """Several scripts as one transaction: one round trip, and one sync to disk where the server syncs each.

        They run in their order, and what is wrong with one keeps no other from it.

        Returns:
            For each call its value, or the error that it would have raised.

        Raises:
            StoreUnavailable: The server cannot be reached or cannot do them now; some may have been done.
        """
        with _translated(self._address):
            answers = self._transaction(calls)
            forgotten = _forgotten(answers)
            if forgotten:
                for name in {calls[at].name for at in forgotten}:
                    self._client.script_load(self._scripts[name].script)
                again = self._transaction([calls[at] for at in forgotten])
                for at, answer in zip(forgotten, again, strict=True):
                    answers[at] = answer
            return _values(calls, answers)

    def _transaction(self, calls: Sequence[Call[T]]) -> list[Any]:
        with self._client.pipeline(transaction=True) as pipeline:
            for call in calls:
                pipeline.evalsha(self._scripts[call.name].sha, 1, *self._keys, *call.args)
            return list(pipeline.execute(raise_on_error=False))

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()


class AsyncExecutor:
    """Carries out calls, awaiting; belongs to the event loop that first uses it.

    Args:
        settings: Where the server is, and its namespace.
        package: The package whose Lua scripts the calls name.
    """

    def __init__(self, settings: Settings, package: str) -> None:
        self._address = server_address(settings.redis_url)
        self._keys = [f"{{{settings.namespace}}}"]
        self._timeout_s = settings.store_timeout_s
        self._client = _awaiting_client(settings)
        scripts = Scripts(package)
        self._scripts: dict[str, AsyncScript] = {
            name: self._client.register_script(scripts.source(name)) for name in scripts.names()
        }

    async def run(self, call: Call[T]) -> T:
        """One round trip.

        Raises:
            StoreUnavailable: The server cannot be reached or cannot do it now.
        """
        with _translated(self._address):
            if call.is_script:
                answer = await self._scripts[call.name](keys=self._keys, args=call.args)
            else:
                answer = await self._client.execute_command(call.name, *call.args)  # type: ignore[no-untyped-call]
        return call.parse(answer)

    async def run_all(self, calls: Sequence[Call[T]]) -> list[T | IhvpError]:
        """See ``Executor.run_all``."""
        with _translated(self._address):
            answers = await self._transaction(calls)
            forgotten = _forgotten(answers)
            if forgotten:
                for name in {calls[at].name for at in forgotten}:
                    await self._client.script_load(self._scripts[name].script)
                again = await self._transaction([calls[at] for at in forgotten])
                for at, answer in zip(forgotten, again, strict=True):
                    answers[at] = answer
            return _values(calls, answers)

    async def _transaction(self, calls: Sequence[Call[T]]) -> list[Any]:
        async with self._client.pipeline(transaction=True) as pipeline:
            for call in calls:
                pipeline.evalsha(self._scripts[call.name].sha, 1, *self._keys, *call.args)
            return list(await pipeline.execute(raise_on_error=False))

    async def messages(self, channel: str) -> AsyncIterator[str]:
        """What is published on a channel from now on.

        Raises:
            StoreUnavailable: The link broke, or was silent although it was asked for a sign of life; what was
                published meanwhile is lost.
        """
        with _translated(self._address):
            async with self._subscription(channel) as subscription:
                asked, subscribed = False, False
                while True:
                    message = await subscription.get_message(timeout=self._timeout_s)
                    if message is None and asked:
                        raise redis.exceptions.TimeoutError("the subscription is silent")
                    # A quiet link and a dead one look alike, until it is asked.
                    if asked := message is None:
                        await subscription.ping()
                    elif message["type"] == "message":
                        yield message["data"]
                    elif message["type"] == "subscribe":
                        # The client mends a broken link by itself and subscribes again, without a word on the gap.
                        if subscribed:
                            raise redis.exceptions.ConnectionError("the subscription had to be renewed")
                        subscribed = True

    @asynccontextmanager
    async def _subscription(self, channel: str) -> AsyncIterator[redis.asyncio.client.PubSub]:
        subscription = self._client.pubsub()
        try:
            await subscription.subscribe(channel)
            yield subscription
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()
