"""An API that is started with few descriptors, as new engines start containers, holds as many callers as it may."""

from __future__ import annotations

import resource
import subprocess
import sys

import httpx
import psutil

from ihvp.up.embedded_store import free_port
from tests.starting.started import ROOT, Host
from tests.waiting import eventually


def test_the_api_takes_all_descriptors_that_it_may(host: Host) -> None:
    port = free_port()
    few = f"ulimit -Sn 256; exec {sys.executable!r} -m ihvp.cli start api"
    with host.log("api").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", few],
            env=host._environment({"port": port}),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    host.running.append(process)

    def answers() -> bool:
        assert process.poll() is None, host.log("api").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers)
    soft, hard = psutil.Process(process.pid).rlimit(resource.RLIMIT_NOFILE)
    assert soft == hard > 256
