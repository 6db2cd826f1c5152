"""The worker's Celery application: ``celery -A workers.celery_app worker``."""

from __future__ import annotations

from typing import Any

from ihvp.settings import Settings, get_settings
from workers.broker import make_celery
from workers.worker import Worker

__all__ = ["app", "worker_configuration"]

_SOFT_SHUTDOWN_S = 10.0
_CHILD_START_S = 120.0
_BEYOND_BUDGET = 2 * 1024**3


def worker_configuration(settings: Settings) -> dict[str, Any]:
    """What a worker adds to the configuration that all processes share."""
    return {
        "worker_pool": "prefork",
        # A device, and the cores of a worker, serve one solve at a time.
        "worker_concurrency": 1,
        # Early acknowledgement loses the token of a job with its worker.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A long solve must not hold a second token back from an idle worker.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # Kept problems die with the child, so it is replaced only against a leak that outgrows them (KiB).
        "worker_max_tasks_per_child": 100_000,
        "worker_max_memory_per_child": (settings.cache_budget + 3 * settings.memory_budget + _BEYOND_BUDGET) // 1024,
        # The child imports torch before it says that it is up.
        "worker_proc_alive_timeout": _CHILD_START_S,
        "worker_soft_shutdown_timeout": _SOFT_SHUTDOWN_S,
        "broker_connection_retry_on_startup": True,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _build() -> Any:
    settings = get_settings()
    application = make_celery(settings)
    application.conf.update(worker_configuration(settings))
    Worker(application, settings).connect()
    return application


app = _build()
