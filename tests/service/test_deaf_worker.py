"""A worker whose parent hangs under ``ihvp up``: the service says so, and is whole again by itself."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from examples.running_service import RunningService
from tests.service.test_survival import is_ready, parts, until

pytestmark = pytest.mark.service


def test_a_worker_that_hears_nothing_is_replaced(tmp_path: Path) -> None:
    service = RunningService(tmp_path / "data", worker_alive_s="4", canary_s="1")

    def parents() -> list[psutil.Process]:
        return [process for process in parts(service, "workers.celery_app") if process.ppid() == service.pid]

    try:
        service.wait_until_ready()
        (deaf,) = parents()
        deaf.send_signal(signal.SIGSTOP)
        until(lambda: not is_ready(service), 30)
        until(lambda: deaf not in parents() and len(parents()) == 1, 30)
        until(lambda: is_ready(service), 60)
    finally:
        service.stop()
