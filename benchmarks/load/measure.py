"""The measurements, one function each; all against a running ``LoadedService``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks.load.service import MODEL, ROOT, LoadedService, wait_for
from benchmarks.load.wrk import Served, find_wrk, run_wrk
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import child_environment
from ihvp.up.embedded_store import free_port
from workers.retention import Retention

__all__ = ["at_size", "held_streams", "overhead", "process_figures", "rates"]

MIB: Final = 1024 * 1024
PAUSE_S: Final = 0.2
STREAMS_A_SECOND: Final = 100
"""Those that are opened more slowly than this count as refused."""


def rates(service: LoadedService, seconds: float, repeats: int) -> dict[str, Any]:
    """Requests a second of polling and submitting, each beside its floor, interleaved; medians over the repeats."""
    job = service.client.submit(**_arguments(service, 0.5))
    service.client.wait(job.id, timeout=30)
    poll = f"{service.url}/v1/jobs/{job.id}"
    etag = httpx.get(poll).headers["etag"]
    entry = json.dumps(service.submission("%d"), separators=(",", ":")).replace('"%d"', "%d")
    runs: dict[str, list[_Run]] = {}
    drained: list[float] = []
    api, floor = service.part("uvicorn"), service.floor
    reading, writing = f"{service.floor_url}/key", f"{service.floor_url}/entry"
    for warm_up in (reading, poll):
        run_wrk(warm_up, 1.0)
    for repeat in range(repeats):
        runs.setdefault("floor: GET one key", []).append(_loaded(floor, reading, seconds))
        runs.setdefault("poll", []).append(_loaded(api, poll, seconds))
        unchanged = {"If-None-Match": etag}
        runs.setdefault("poll, If-None-Match (304)", []).append(_loaded(api, poll, seconds, headers=unchanged))
        with service.resting_worker():
            written = _loaded(floor, writing, seconds, body=entry)
            submitted = _loaded(api, f"{service.url}/v1/jobs", seconds, body=entry, first=repeat * 1_000_000)
        runs.setdefault("floor: POST one entry, synced", []).append(written)
        runs.setdefault("submit", []).append(submitted)
        took = service.drained()
        drained.append(submitted.served.rate * max(1, round(seconds)) / took)
    found: dict[str, Any] = {
        name: {
            "rate": statistics.median(one.served.rate for one in several),
            "rates": [one.served.rate for one in several],
            "p50_ms": statistics.median(one.served.p50_ms for one in several),
            "p99_ms": statistics.median(one.served.p99_ms for one in several),
            "cpu_ms": statistics.median(one.cpu_ms for one in several),
        }
        for name, several in runs.items()
    }
    return {"served": found, "solved_per_s": statistics.median(drained), "sync_ms": _sync_ms(service.data_dir)}


@dataclass(frozen=True)
class _Run:
    served: Served
    cpu_ms: float


def _loaded(process: psutil.Process, url: str, seconds: float, **request: Any) -> _Run:
    """A run of wrk, and the processor time a request that it took: what a busy machine does not blur."""
    before = sum(process.cpu_times()[:2])
    served = run_wrk(url, seconds, **request)
    spent = sum(process.cpu_times()[:2]) - before
    return _Run(served, 1000 * spent / (served.rate * max(1, round(seconds))))


def _sync_ms(folder: Path) -> float:
    """Milliseconds of one small append and its sync, on the disk that the service uses."""
    times = []
    path = folder / "sync-probe"
    with path.open("ab", buffering=0) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    path.unlink()
    return statistics.median(times)


def overhead(service: LoadedService, samples: int) -> dict[str, Any]:
    """Milliseconds from sending a submit to holding the finished job, less what the worker says the solve took.

    In turn with the floor: a message through Celery and back, with an entry synced on either way. So a machine that is
    slower for a minute is so for all of them.
    """
    ways = {"submit, then poll with ?wait=": False, "submit with Prefer: wait": True}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    floor: list[float] = []
    with (
        httpx.Client(base_url=service.url, timeout=30.0) as http,
        httpx.Client(timeout=30.0) as bare,
        service.floor_worker(),
    ):
        for number in range(samples):
            began = time.perf_counter()
            bare.post(f"{service.floor_url}/task", json=service.submission(number)).raise_for_status()
            floor.append(1000 * (time.perf_counter() - began))
            for name, hold in ways.items():
                taken[name].append(_solved(http, service.submission(number + (0.25 if hold else 0.75)), hold))
    found = {
        name: {
            "samples": samples,
            "beside_the_solve_ms": _spread([1000 * (took - solve) for took, solve in times]),
            "in_all_ms": _spread([1000 * took for took, _ in times]),
        }
        for name, times in taken.items()
    }
    return {"ways": found, "floor_ms": _spread(floor)}


def _solved(http: httpx.Client, body: dict[str, Any], hold: bool) -> tuple[float, float]:
    """Seconds until a job was back, and what of them the solve took."""
    began = time.perf_counter()
    job = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=15"} if hold else {}).raise_for_status().json()
    while job["state"] not in {"succeeded", "failed"}:
        job = http.get(f"/v1/jobs/{job['id']}", params={"wait": 15}).raise_for_status().json()
    return time.perf_counter() - began, job["result"]["solve_s"]


def held_streams(service: LoadedService, ladder: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Event streams held open at once, and what that costs the API: memory, and the polls of others.

    wrk holds them: it waits for the end of an answer that does not come.
    """
    wrk = find_wrk()
    assert wrk is not None
    api = service.part("uvicorn")
    rungs: list[dict[str, Any]] = []
    with service.resting_worker():
        job_id = httpx.post(f"{service.url}/v1/jobs", json=service.submission(0.125)).raise_for_status().json()["id"]
    service.client.wait(job_id, timeout=30)
    with service.resting_worker():
        waiting = httpx.post(f"{service.url}/v1/jobs", json=service.submission(0.0625)).raise_for_status().json()["id"]
        events = f"{service.url}/v1/jobs/{waiting}/events"
        for wanted in ladder:
            command = [wrk, "-t1", f"-c{wanted}", "-d180s", "--timeout", "180s", events]
            holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                held = _settled(api, wanted, max(seconds, wanted / STREAMS_A_SECOND))
                polls = [_timed(f"{service.url}/v1/jobs/{job_id}") for _ in range(30)]
                rungs.append(
                    {
                        "wanted": wanted,
                        "held": held,
                        "rss_mib": api.memory_info().rss / MIB,
                        "descriptors": api.num_fds(),
                        "poll_p50_ms": statistics.median(polls),
                        "poll_p99_ms": sorted(polls)[-1],
                    }
                )
            finally:
                holder.kill()
                holder.communicate()
            _settled(api, 0, seconds)
            if held < wanted:
                break
    service.drained()
    return rungs


def at_size(service: LoadedService, kept: int, seconds: float, samples: int) -> dict[str, Any]:
    """What each kind of call costs with so many finished jobs in the store."""
    entry = json.dumps(service.submission("%d"), separators=(",", ":")).replace('"%d"', "%d")
    newest = httpx.get(f"{service.url}/v1/jobs", params={"state": "succeeded", "limit": 1}).json()["jobs"][0]
    found: dict[str, Any] = {"kept": kept, "restart_s": service.ready_s}
    poll = run_wrk(f"{service.url}/v1/jobs/{newest['id']}", seconds)
    with service.resting_worker():
        submit = run_wrk(f"{service.url}/v1/jobs", seconds, body=entry, first=kept * 1_000)
    service.drained()
    found["poll"] = {"rate": poll.rate, "p99_ms": poll.p99_ms}
    found["submit"] = {"rate": submit.rate, "p99_ms": submit.p99_ms}
    now = datetime.now(UTC)
    filters: Mapping[str, dict[str, str]] = {
        "list": {},
        "list ?state=": {"state": "succeeded"},
        "list ?method=": {"method": "cg"},
        "list ?model=": {"model": MODEL},
        "list ?tag=": {"tag": "fill:yes"},
        "list ?created_after=": {"created_after": (now - timedelta(days=1)).isoformat()},
        "list ?created_before=": {"created_before": now.isoformat()},
    }
    with httpx.Client(base_url=service.url, timeout=30.0) as http:
        for name, query in filters.items():
            times = []
            for _ in range(samples):
                began = time.perf_counter()
                http.get("/v1/jobs", params={"limit": 50, **query}).raise_for_status()
                times.append(1000 * (time.perf_counter() - began))
            found[name] = {"p50_ms": statistics.median(times)}
    found["sweep_s"] = _sweep(service)
    return found


def process_figures(service: LoadedService, repeats: int) -> dict[str, Any]:
    """What the API process is: memory under load, what it has loaded, and how soon a new one answers."""
    api = service.part("uvicorn")
    maps = Path(f"/proc/{api.pid}/maps").read_text()
    starts = []
    for _ in range(repeats):
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port)]
        environment = child_environment(redis_url=service.store_url, data_dir=str(service.data_dir))
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz")
            starts.append(time.perf_counter() - began)
        finally:
            process.terminate()
            process.wait()
    return {
        "rss_mib": api.memory_info().rss / MIB,
        "torch_loaded": "libtorch" in maps,
        "start_s": statistics.median(starts),
    }


def _arguments(service: LoadedService, number: float) -> dict[str, Any]:
    body = service.submission(number)
    return {**body, "rhs": body["rhs"]["inline"]}


def _sweep(service: LoadedService) -> float:
    """Seconds of one sweep, as the reconciler makes it once a minute."""
    settings = service.settings
    jobs = RedisJobStore.from_settings(settings)
    retention = Retention.from_settings(settings, jobs)
    began = time.perf_counter()
    retention.sweep()
    took = time.perf_counter() - began
    jobs.close()
    return took


def _settled(api: psutil.Process, wanted: int, seconds: float) -> int:
    """Connections of the API once there are as many as wanted, or once the time is over."""
    give_up = time.perf_counter() + seconds
    while True:
        port = next(c.laddr.port for c in api.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
        links = api.net_connections("tcp")
        count = sum(1 for c in links if c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port)
        if (count >= wanted if wanted else count <= 1) or time.perf_counter() > give_up:
            return count
        time.sleep(PAUSE_S)


def _timed(url: str) -> float:
    began = time.perf_counter()
    httpx.get(url, timeout=30.0).raise_for_status()
    return 1000 * (time.perf_counter() - began)


def _spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "most": ordered[-1],
    }
