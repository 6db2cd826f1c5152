"""How every process of the service speaks to the broker, of whose visibility timeouts the shortest wins."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["AHEAD_S", "CANARY", "SOLVE_TASK", "transport_options"]

SOLVE_TASK: Final = "ihvp.solve"
CANARY: Final = "canary"
"""In the place of a job id: a message that is sent to see whether it is taken. It is treated like any other."""

AHEAD_S: Final = 0.01
"""So long before its job is in the store may a message be sent; a worker that is there first waits five times that."""

# Far above the longest solve: the broker hands an unacknowledged message out again after this time.
# The job store, not the broker, notices a dead worker.
_VISIBILITY_TIMEOUT_S: Final = 7 * 24 * 3600
# A link that died without a word is noticed before it is used again.
_HEALTH_CHECK_S: Final = 10


def transport_options(timeout_s: float) -> dict[str, Any]:
    """Celery's ``broker_transport_options``.

    Args:
        timeout_s: Longest wait for the broker.
    """
    return {
        "visibility_timeout": _VISIBILITY_TIMEOUT_S,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": _HEALTH_CHECK_S,
        "retry_on_timeout": False,
    }
