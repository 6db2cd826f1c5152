"""The parts of the service as processes: store, API, reconciler, sender of webhooks, workers, in order of starting."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ihvp.settings import child_environment, get_settings
from ihvp.up.child import BoundedLog
from ihvp.up.embedded_store import EmbeddedStore
from ihvp.up.modules import api_module, reconciler_module, sender_module, worker_module
from ihvp.up.supervisor import Part

__all__ = ["UpOptions", "service_parts"]

STORE, API, RECONCILER, WORKERS = range(4)
# Together, with the reconciler's second, below the ten seconds that a stop may take.
GRACE_S: Final = {STORE: 1.5, API: 2.0, RECONCILER: 1.0, WORKERS: 5.0}


@dataclass(frozen=True)
class UpOptions:
    """What ``ihvp up`` was asked for.

    Attributes:
        host: Address of the API.
        port: Its port; 0 picks a free one, which it keeps.
        data_dir: Folder of blobs, store and logs.
        workers: Number of workers; they share the cores.
    """

    host: str
    port: int
    data_dir: Path
    workers: int


def service_parts(options: UpOptions, root: Path, listener: int) -> list[Part]:
    """All parts; the embedded store is one of them unless ``IHVP_REDIS_URL`` names another.

    Args:
        options: With the port that was really bound and an absolute data directory.
        root: The checkout.
        listener: Descriptor of the listening socket, which outlives any one API process.

    Raises:
        SetupError: There is no server for the embedded store.
    """
    store = None if "redis_url" in get_settings().model_fields_set else EmbeddedStore(options.data_dir)
    environment = child_environment(
        data_dir=str(options.data_dir),
        host=options.host,
        port=str(options.port),
        workers=str(options.workers),
        **({} if store is None else {"redis_url": store.url}),
    )
    rooms = _Rooms(root, options.data_dir, environment)
    names = [f"worker-{number}" for number in range(1, options.workers + 1)]
    return [
        *([] if store is None else [_store_part(store, options.data_dir, environment)]),
        rooms.part("api", API, api_module(listener), pass_fds=(listener,)),
        rooms.part("reconciler", RECONCILER, reconciler_module()),
        rooms.part("webhooks", WORKERS, sender_module("webhooks")),
        *(rooms.part(name, WORKERS, worker_module(name)) for name in names),
    ]


@dataclass(frozen=True)
class _Rooms:
    """Makes parts that are modules of the checkout."""

    root: Path
    data_dir: Path
    environment: Mapping[str, str]

    def part(self, name: str, stage: int, module: list[str], pass_fds: tuple[int, ...] = ()) -> Part:
        return Part(
            name=name,
            command=lambda: [sys.executable, "-m", *module],
            environment=self.environment,
            # `python -m` then finds this checkout's rooms before anything else of their names.
            cwd=self.root,
            log=_log(self.data_dir, name),
            pass_fds=pass_fds,
            stage=stage,
            grace_s=GRACE_S[stage],
        )


def _store_part(store: EmbeddedStore, data_dir: Path, environment: Mapping[str, str]) -> Part:
    return Part(
        name="store",
        command=store.command,
        environment=environment,
        cwd=data_dir,
        log=_log(data_dir, "store"),
        stage=STORE,
        grace_s=GRACE_S[STORE],
        is_up=store.answers,
    )


def _log(data_dir: Path, name: str) -> BoundedLog:
    return BoundedLog(data_dir / "logs" / f"{name}.log")
