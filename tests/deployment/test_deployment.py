"""One command brings the whole service up, safe by default, and it loses nothing: `make containers`, in this order."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ihvp import Client
from tests.chaos.problem import Problem
from tests.deployment.deployment import SERVICES, Deployment
from tests.deployment.load import Load
from tests.deployment.outside import PORT, THERE, host_outside
from tests.deployment.report import Report
from tests.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

OURS = ("api", "worker", "reconciler", "webhooks")
ROOT = Path(__file__).resolve().parents[2]


def test_every_part_is_up_and_the_doctor_is_content(deployment: Deployment) -> None:
    states = deployment.states()
    assert {name for name, state in states.items() if state["State"]["Running"]} == set(SERVICES)
    assert [states[name]["State"]["ExitCode"] for name in ("prepare", "doctor")] == [0, 0]
    for where in (["run", "--rm", "doctor"], ["exec", "-T", "worker", "ihvp", "doctor"]):
        done = deployment.compose(*where)
        assert done.returncode == 0, done.stdout + done.stderr
        # How much room a disk has is the machine's own affair.
        found = [line for line in done.stdout.splitlines() if not line.lstrip().startswith("disk")]
        assert not re.search(" (fault|warning) ", "\n".join(found)), done.stdout


def test_the_demo_through_the_published_port(deployment: Deployment, report: Report, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--url", deployment.url, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    certificates = done.stdout.count("converged")
    assert certificates == 16
    worst = max(float(each) for each in re.findall(r"\d\.\d\de-\d\d", done.stdout))
    report.add(
        "the demo through the published port", f"{certificates} of 16 certificates converged, residuals ≤ {worst:.1e}"
    )


def test_only_the_api_is_published(deployment: Deployment) -> None:
    published = {
        name: [binding for bindings in ports.values() for binding in bindings or []]
        for name, state in deployment.states().items()
        if (ports := state["NetworkSettings"]["Ports"])
    }
    open_ports = {name: bindings for name, bindings in published.items() if bindings}
    assert open_ports == {"api": [{"HostIp": "127.0.0.1", "HostPort": str(deployment.port)}]}


def test_no_part_may_do_more_than_it_needs(deployment: Deployment) -> None:
    for service in SERVICES:
        pid = deployment.pid(service)
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            assert 0 not in map(int, status["Uid"].split()), service
            assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}, service
            assert status["NoNewPrivs"] == "1", service
        mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()]
        assert [mount[5].split(",")[0] for mount in mounts if mount[4] == "/"] == ["ro"], service
    for service in OURS:
        done = deployment.compose("exec", "-T", service, "touch", "/srv/ihvp/x")
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr


def test_the_password_is_needed_and_stands_nowhere(deployment: Deployment) -> None:
    refused = deployment.compose("exec", "-T", "valkey", "valkey-cli", "ping")
    assert "NOAUTH" in refused.stdout + refused.stderr
    secret = deployment.compose("exec", "-T", "api", "cat", "/run/secrets/ihvp_store_password").stdout.strip()
    assert len(secret) >= 32
    assert secret not in json.dumps(deployment.states())
    assert secret not in deployment.logs()
    for service in SERVICES:
        first = psutil.Process(deployment.pid(service))
        for process in [first, *first.children(recursive=True)]:
            assert secret not in " ".join(process.cmdline())
            assert secret not in json.dumps(process.environ())


def test_no_job_is_lost_when_worker_and_store_are_killed_under_load(deployment: Deployment, report: Report) -> None:
    back: dict[str, float] = {}
    with Load(deployment.url) as load:
        load.wait_for(20, 60)
        for service in ("worker", "valkey", "worker", "reconciler", "api"):
            old, began = deployment.pid(service), time.monotonic()
            deployment.kill(service)
            deployment.wait_for(service, other_than=old)
            back[service] = max(back.get(service, 0.0), time.monotonic() - began)
            load.wait_for(20, 120)
        restarted = deployment.compose("restart", "valkey")
        assert restarted.returncode == 0, restarted.stderr
        load.wait_for(20, 120)
    verdict = load.settle(300)
    report.add("healthy again after SIGKILL", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in back.items()))
    report.add("jobs accepted under load meanwhile", str(verdict.accepted))
    report.add("of these lost", str(verdict.lost))
    report.add("of these ended otherwise than with the right result, once", str(len(verdict.complaints)))
    report.add("worst residual, recomputed by a dense Hessian", f"{verdict.worst_residual:.1e}")
    assert verdict.complaints == []
    assert verdict.ends == {"succeeded": verdict.accepted}


def test_a_worker_that_is_stopped_hands_its_solve_on(deployment: Deployment, report: Report) -> None:
    problem = Problem()
    with Client(deployment.url) as client:
        problem.register(client)
        job = client.submit(**problem.slow(terms=60_000))
        eventually(
            lambda: (progress := client.job(job.id).progress) is not None and progress.iteration >= 1000,
            timeout_s=60.0,
            what="the thousandth iteration",
        )
        began = time.monotonic()
        stopped = deployment.compose("stop", "worker")
        took = time.monotonic() - began
        assert stopped.returncode == 0, stopped.stderr
        assert deployment.states()["worker"]["State"]["ExitCode"] == 0
        assert client.job(job.id).state == "queued"
        assert deployment.compose("start", "worker").returncode == 0
        done = client.wait(job.id, timeout=300)
        info = client.result(job.id).info.model_extra or {}
        assert done.state == "succeeded"
        assert info["resumed_at"] > 1000
    deployment.wait_for("worker")
    report.add("`docker compose stop worker` in the midst of a solve", f"{took:.1f} s; it goes on from its checkpoint")


def test_all_of_it_stops_and_starts_and_keeps_what_it_had(deployment: Deployment, report: Report) -> None:
    with Client(deployment.url) as client:
        job = client.wait(client.submit(model="chaos-mlp", rhs=np.ones(51), hessian_perturbation=0.5).id, timeout=60)
        before = client.result(job.id)
    began = time.monotonic()
    deployment.down()
    report.add("`docker compose down`", f"{time.monotonic() - began:.1f} s")
    report.add("`docker compose up -d --wait` again", f"{deployment.up():.1f} s")
    with Client(deployment.url) as client:
        assert client.result(job.id).digest == before.digest


def test_a_workers_way_out_can_be_cut(deployment: Deployment, report: Report) -> None:
    call = f"import socket; socket.create_connection(('{THERE}', {PORT}), 5)"

    def reaches(service: str) -> bool:
        return deployment.compose("exec", "-T", service, "python", "-c", call).returncode == 0

    with host_outside():
        assert {name: reaches(name) for name in OURS} == {
            "api": True, "worker": True, "reconciler": False, "webhooks": True
        }  # fmt: skip
        deployment.down()
        deployment.set(IHVP_EGRESS_INTERNAL="true")
        deployment.up()
        cut = {name: reaches(name) for name in OURS}
        assert cut == {"api": True, "worker": False, "reconciler": False, "webhooks": True}
    with Client(deployment.url) as client:
        job = client.submit(model="chaos-mlp", rhs=np.ones(51), hessian_perturbation=0.5)
        assert client.wait(job.id, timeout=60).state == "succeeded"
    deployment.down()
    deployment.set(IHVP_EGRESS_INTERNAL="false")
    deployment.up()
    report.add("a worker with `IHVP_EGRESS_INTERNAL=true`", "reaches no other host, and solves")


def test_processes_of_a_killed_worker_are_gone(deployment: Deployment) -> None:
    first = psutil.Process(deployment.pid("worker"))
    children = first.children(recursive=True)
    assert children, "tini has a worker, and that has its child"
    os.kill(first.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    deployment.wait_for("worker", other_than=first.pid)
