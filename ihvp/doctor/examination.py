"""All checks in order."""

from __future__ import annotations

from collections.abc import Iterator

from ihvp.doctor.access import look_at_access
from ihvp.doctor.finding import Finding
from ihvp.doctor.machine import look_at_clock, look_at_disk, look_at_port
from ihvp.doctor.runtime import look_at_device, look_at_python, look_at_torch, torch_facts
from ihvp.doctor.store import look_at_store
from ihvp.settings import Settings

__all__ = ["examine"]


def examine(settings: Settings) -> Iterator[Finding]:
    """What is found, one after another; torch takes a few seconds.

    Args:
        settings: Of the service that is to run here.
    """
    yield look_at_python()
    facts = torch_facts()
    yield look_at_torch(facts)
    yield look_at_device(settings, facts)
    store, store_time = look_at_store(settings)
    yield store
    yield look_at_port(settings)
    yield look_at_access(settings, store_time is not None)
    yield look_at_disk(settings)
    yield look_at_clock(store_time)
