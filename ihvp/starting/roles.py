"""The parts that can be started by themselves."""

from __future__ import annotations

from enum import Enum

__all__ = ["Role"]


class Role(str, Enum):
    """What a process does in the service."""

    Api = "api"
    Worker = "worker"
    Reconciler = "reconciler"
    Webhooks = "webhooks"
