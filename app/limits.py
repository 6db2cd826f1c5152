"""How much of the service one tenant may have: requests, held connections, numbers of right-hand sides, bytes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ihvp.errors import QuotaExceeded, RateLimited, StoreUnavailable
from ihvp.holdings.store import no_room

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.strategies import SlidingWindowCounterRateLimiter

    from app.services import Services
    from ihvp.settings import Settings

__all__ = ["HourlyNumbers", "RequestLimits", "check_room", "room_for"]

QUOTA_RETRY_S: Final = 60.0
HELD_RETRY_S: Final = 1.0


class RequestLimits:
    """Requests a second, and requests that are held, of each tenant; counted in this process.

    Args:
        settings: Has the bounds.
    """

    def __init__(self, settings: Settings) -> None:
        self._most_held = settings.tenant_held
        self._held: Counter[str] = Counter()
        self._rate: tuple[SlidingWindowCounterRateLimiter, RateLimitItem] | None = None
        if settings.tenant_rate is not None:
            # Only where it is asked for: most services need no limits, and the library takes its time to load.
            from limits import RateLimitItemPerSecond
            from limits.aio.storage import MemoryStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter

            item = RateLimitItemPerSecond(settings.tenant_rate)
            self._rate = SlidingWindowCounterRateLimiter(MemoryStorage()), item

    async def take(self, tenant: str) -> dict[str, str]:
        """Counts a request.

        Returns:
            The headers that tell of the limit; none without one.

        Raises:
            RateLimited: The tenant has had its requests of this second.
        """
        if self._rate is None:
            return {}
        limiter, item = self._rate
        if await limiter.hit(item, tenant):
            return await self.headers(tenant)
        raise RateLimited(
            "This tenant sends more requests than it may.",
            allowed=f"{item.amount} a second (IHVP_TENANT_RATE)",
            hint="Wait for jobs with ?wait= or their events instead of asking again and again.",
            retry_after_s=1.0,
        )

    async def headers(self, tenant: str) -> dict[str, str]:
        """What is left, as the IETF's draft on rate limit headers writes it."""
        if self._rate is None:
            return {}
        limiter, item = self._rate
        stats = await limiter.get_window_stats(item, tenant)
        wait = max(0, min(item.get_expiry(), round(stats.reset_time - time.time())))
        return {
            "RateLimit-Policy": f'"requests";q={item.amount};w={item.get_expiry()}',
            "RateLimit": f'"requests";r={max(0, stats.remaining)};t={wait}',
        }

    @contextmanager
    def holding(self, tenant: str) -> Iterator[None]:
        """Counts a request that is held, for as long as it is.

        Raises:
            RateLimited: The tenant has as many held as it may.
        """
        if self._held[tenant] >= self._most_held:
            raise RateLimited(
                "This tenant has as many connections held as it may.",
                given=f"{self._held[tenant]} long polls and event streams",
                allowed=f"{self._most_held} (IHVP_TENANT_HELD)",
                hint="Close those that nobody waits for.",
                retry_after_s=HELD_RETRY_S,
            )
        self._held[tenant] += 1
        try:
            yield
        finally:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]


class HourlyNumbers:
    """Numbers of right-hand sides that each tenant submits in an hour; counted in the store, for all processes.

    Args:
        settings: Has the bound, and says where the store is.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit: tuple[SlidingWindowCounterRateLimiter, RateLimitItem] | None = None
        if settings.tenant_rhs_numbers is not None:
            from limits import RateLimitItemPerHour
            from limits.aio.storage import RedisStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter

            kind = "redis+unix" if settings.redis_url.startswith("unix:") else settings.redis_url.partition(":")[0]
            options: dict[str, Any] = {
                "socket_timeout": settings.store_timeout_s,
                "socket_connect_timeout": settings.store_timeout_s,
            }
            storage = RedisStorage(
                f"async+{kind}:{settings.redis_url.partition(':')[2]}",
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix=f"{{{settings.namespace}}}:limits",
                **options,
            )
            self._limit = SlidingWindowCounterRateLimiter(storage), RateLimitItemPerHour(settings.tenant_rhs_numbers)

    async def take(self, tenant: str, numbers: int) -> None:
        """Counts the numbers of a submission.

        Raises:
            QuotaExceeded: With them the tenant would have more than it may.
            StoreUnavailable: The store does not answer.
        """
        if self._limit is None:
            return
        from limits.errors import StorageError

        limiter, item = self._limit
        try:
            taken = await limiter.hit(item, tenant, cost=numbers)
            left = item.amount if taken else (await limiter.get_window_stats(item, tenant)).remaining
        except StorageError as error:
            raise StoreUnavailable(
                "The store that counts for quotas does not answer.",
                hint="Nothing was submitted; try again in a moment.",
            ) from error
        if not taken:
            raise QuotaExceeded(
                "This tenant has submitted as many numbers of right-hand sides as it may in an hour.",
                given=f"{numbers} numbers (right-hand sides x parameters), where {left} are left",
                allowed=f"{item.amount} an hour (IHVP_TENANT_RHS_NUMBERS)",
                hint="Submit fewer right-hand sides, or later.",
                retry_after_s=QUOTA_RETRY_S,
            )


async def check_room(services: Services, size: int) -> None:
    """Whether the request's tenant may store so many bytes more.

    Raises:
        QuotaExceeded: It may not.
    """
    most = services.settings.tenant_bytes
    if most is None:
        return
    total = await services.holdings.total()
    if total + size > most:
        raise no_room(size, total, most)


async def room_for(services: Services, digest: str, most: int) -> int | None:
    """Bytes that an upload of the request's tenant may have; None where it has the blob already: that needs none.

    Args:
        services: Of the tenant.
        digest: What is uploaded.
        most: Bytes that the tenant may hold.
    """
    if await services.holdings.held([digest]):
        return None
    return max(0, most - await services.holdings.total())
