"""The port, the disk and the clock."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

from ihvp.doctor.finding import Finding
from ihvp.settings import Settings
from ihvp.starting.data_dir import elsewhere, not_written
from ihvp.surroundings import in_our_image, setting
from ihvp.up.exclusive import open_listener
from ihvp.up.probe import ask

__all__ = ["look_at_clock", "look_at_disk", "look_at_port"]

LEAST_FREE: Final = 2**30
SLOW_SYNC_S: Final = 0.05
WRITTEN_AT: Final = 1_764_000_000
"""Seconds since 1970 when this was written: a clock that shows less is wrong."""
MOST_SKEW_S: Final = 1.0


def look_at_port(settings: Settings) -> Finding:
    """Whether the API can bind its port, or answers there already."""
    host, port = settings.host, settings.port
    if port == 0:
        return Finding.good("port", "a free one is picked")
    try:
        open_listener(host, port).close()
    except OSError as error:
        return _taken(host, port, error)
    return Finding.good("port", f"{host}:{port} is free")


def _taken(host: str, port: int, error: OSError) -> Finding:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        if _is_ihvp(host, port):
            return Finding.good("port", f"an ihvp service answers at {where}")
        mend = "end it" if in_our_image() else "ihvp up --port 0, or IHVP_PORT=<free>"
        return Finding.fault("port", f"another program listens at {where}", mend)
    if error.errno == errno.EACCES:
        return Finding.fault("port", f"{where} needs privileges", "export IHVP_PORT=8000")
    return Finding.fault("port", f"{where} cannot be bound: {error.strerror}", "export IHVP_HOST=127.0.0.1")


def _is_ihvp(host: str, port: int) -> bool:
    answer = ask(host, port, "/healthz")
    return answer is not None and answer.getheader("X-Request-ID") is not None


def look_at_disk(settings: Settings) -> Finding:
    """Whether the data directory can hold what it has to: written, renamed, synced, and with room."""
    folder = settings.data_dir.absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        took = _write_and_sync(there)
    except OSError as error:
        return Finding.fault("disk", f"{there}: {error.strerror}", str(not_written(there, error).hint).rstrip("."))
    free = shutil.disk_usage(there).free
    found = f"{there}: {free / 2**30:.1f} GiB free, a synced write takes {took * 1e3:.1f} ms"
    if free < LEAST_FREE:
        return Finding.fault("disk", found, f"make room there (du -sh '{there}'/*), or {elsewhere()}")
    if free < settings.max_store_bytes:
        bound = f"{found}; blobs may take {settings.max_store_bytes / 2**30:.0f} GiB"
        return Finding.warning("disk", bound, setting("IHVP_MAX_STORE_BYTES", str(int(free * 0.8))))
    if took > SLOW_SYNC_S:
        return Finding.warning("disk", f"{found}, and each submit waits for one", f"{elsewhere()} on a local SSD")
    return Finding.good("disk", found)


def _write_and_sync(folder: Path) -> float:
    """Seconds of a small durable write, as the stores make them."""
    written, renamed = (folder / f".ihvp-doctor-{uuid4().hex}" for _ in range(2))
    try:
        began = time.perf_counter()
        with written.open("xb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        written.rename(renamed)
        return time.perf_counter() - began
    finally:
        written.unlink(missing_ok=True)
        renamed.unlink(missing_ok=True)


def look_at_clock(store_time: float | None, now: float | None = None) -> Finding:
    """Whether this machine's clock is right, and agrees with the store's.

    Leases and deadlines go by the store's clock; ages of blobs, logs and signatures by this one.

    Args:
        store_time: Seconds since 1970 as the store says; None where no store was reached.
        now: The same by this machine; read if left out.
    """
    now = time.time() if now is None else now
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    mend = f"{'on the host: ' if in_our_image() else ''}sudo timedatectl set-ntp true"
    if now < WRITTEN_AT:
        return Finding.fault("clock", f"{shown}, which is past", mend)
    if store_time is None:
        return Finding.good("clock", f"{shown}; no store to compare it with")
    skew = now - store_time
    if abs(skew) > MOST_SKEW_S:
        side = "ahead of" if skew > 0 else "behind"
        return Finding.warning("clock", f"{shown}, {abs(skew):.1f} s {side} the store's", mend)
    return Finding.good("clock", f"{shown}, {abs(skew) * 1e3:.0f} ms from the store's")
