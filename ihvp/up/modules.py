"""What ``python -m`` runs for each part of the service: the one place that knows their command lines."""

from __future__ import annotations

__all__ = ["api_module", "reconciler_module", "sender_module", "worker_module"]


def api_module(listener: int) -> list[str]:
    """The API, on a listening socket that it inherits.

    Args:
        listener: Its descriptor.
    """
    module = ["uvicorn", "app.main:create_app", "--factory", "--fd", str(listener)]
    # Long-polls and event streams are cut off at a stop: their callers resume.
    return [*module, "--timeout-graceful-shutdown", "1", "--no-access-log"]


def reconciler_module() -> list[str]:
    """The reconciler."""
    return ["workers.reconciler"]


def sender_module(name: str) -> list[str]:
    """The sender of webhooks.

    Args:
        name: Its name, of which there is one on this host.
    """
    return [*_celery("workers.webhooks.celery_app"), "--pool", "solo", "-n", f"{name}@%h"]


def worker_module(name: str) -> list[str]:
    """A worker.

    Args:
        name: Its name, of which there is one on this host.
    """
    return [*_celery("workers.celery_app"), "-n", f"{name}@%h"]


def _celery(app: str) -> list[str]:
    return ["celery", "--quiet", "-A", app, "worker", "--without-gossip", "--without-mingle"]
