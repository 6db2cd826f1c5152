"""``make demo``: exit status, certificates, picture, and the commands that it ends with, run as printed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from examples.digits import load_digits_split, train_mlp
from examples.running_service import RunningService
from ihvp import Client
from ihvp.client.uploads import tensor_bytes
from ihvp.settings import child_environment

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.service


def start_demo(out: Path, mark: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.demo", "--out", str(out), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(namespace=mark) | {"COLUMNS": "160"},
        process_group=0,
    )


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("IHVP_NAMESPACE") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(240)
def test_the_demo_and_its_last_lines(tmp_path: Path) -> None:
    out = tmp_path / "the demo"
    mark = f"demo-{os.getpid()}"
    demo = start_demo(out, mark)
    said, _ = demo.communicate(timeout=150)
    assert demo.returncode == 0, said
    assert marked(mark) == []

    assert said.count("converged") == 16
    assert "digits-mlp@1" in said
    assert (out / "influence.png").read_bytes().startswith(b"\x89PNG")
    assert "of 48 most helpful images" in said

    up = re.search(r"^  (\S+ up --data-dir .+ --port (\d+))$", said, re.MULTILINE)
    assert up is not None, said
    curls = [line.strip() for line in said.splitlines() if "curl " in line]
    assert len(curls) == 3
    with RunningService(out / "data", int(up[2]), namespace=mark) as service:
        service.wait_until_ready()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(curls)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    events, _, result = done.stdout.rpartition("\n{")
    assert "succeeded" in events
    certificate = json.loads("{" + result)["info"]["certificate"]
    assert len(certificate) == 16
    assert all(entry["status"] == "converged" and entry["relative_residual"] <= 1e-5 for entry in certificate)


def test_the_demo_on_a_service_that_runs_already(service: RunningService, tmp_path: Path) -> None:
    mark = f"elsewhere-{os.getpid()}"
    demo = start_demo(tmp_path / "demo", mark, "--url", f"{service.url}/")
    said, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, said
    assert said.count("converged") == 16
    assert f"Service ready at {service.url}\n" in said
    assert " up --data-dir" not in said, "it is not this program's to start"
    assert not (tmp_path / "demo" / "data").exists()
    with Client(service.url) as client:
        job = next(client.jobs(tags={"from": "demo"}))
    assert job.id in said


def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = f"stop-{os.getpid()}"
    demo = start_demo(tmp_path / "demo", mark)
    assert demo.stdout is not None
    while "Service ready" not in (line := demo.stdout.readline()):
        assert line, "the demo ended early"
    began = time.monotonic()
    os.killpg(demo.pid, signal.SIGINT)  # a terminal signals the whole foreground group
    assert demo.wait(15) == 130
    demo.stdout.close()
    assert time.monotonic() - began < 12
    assert marked(mark) == []


def test_training_gives_the_same_bytes_each_time_so_that_the_model_keeps_its_version() -> None:
    digits = load_digits_split()
    first, second = (tensor_bytes(train_mlp(digits)) for _ in range(2))
    assert first == second
