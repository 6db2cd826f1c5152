"""The API's log as an operator reads it: one JSON object a line, whoever wrote it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings, child_environment
from tests.app.conftest import MakeService

ROOT = Path(__file__).parents[2]


def test_all_lines_of_the_process_are_json_uvicorns_too(valkey: Settings, tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    environment = child_environment(
        redis_url=valkey.redis_url, namespace=valkey.namespace, data_dir=str(tmp_path), log_level="info"
    )
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", "0", "--no-access-log"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 30
        while "running on" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        line = next(json.loads(line) for line in log.read_text().splitlines() if "running on" in line)
        url = line["event"].split("running on ")[1].split(" ")[0]
        with httpx.Client(base_url=url) as http:
            assert http.get("/v1/jobs", headers={"X-Request-ID": "find-me"}).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    assert {line["event"] for line in lines} >= {"Application startup complete.", "request"}
    assert any(line.get("logger") == "uvicorn.error" for line in lines)
    # One line for a request: uvicorn has no access log of its own beside it.
    assert [line["event"] for line in lines if line.get("request_id") == "find-me"] == ["request"]
    password = urlsplit(valkey.redis_url).password
    assert password
    assert password not in text


def test_a_job_is_named_on_the_lines_about_it_and_keeps_its_request(
    make_service: MakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service = make_service(log_level="info")
    submission = service.submission()
    made = service.http.post("/v1/jobs", json=submission, headers={"X-Request-ID": "r-1"}).json()
    service.http.post(f"/v1/jobs/{made['id']}/cancel", headers={"X-Request-ID": "r-2"})
    service.http.post("/v1/jobs", json={**submission, "method": "none"}, headers={"X-Request-ID": "r-3"})
    time.sleep(0.1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    def of(request_id: str) -> list[tuple[str, str | None, str | None]]:
        found = [line for line in lines if line.get("request_id") == request_id]
        return [(line["event"], line.get("job_id"), line.get("code")) for line in found]

    assert of("r-1") == [("job_accepted", made["id"], None), ("request", made["id"], None)]
    assert of("r-2") == [("request", made["id"], None)]
    assert of("r-3") == [("request", None, "unknown_method")]
    store = RedisJobStore.from_settings(service.settings)
    assert store.get(made["id"]).request_id == "r-1"
    store.close()


def test_a_log_without_room_fails_no_request() -> None:
    """The log of ``ihvp up`` lies on the disk that a service fills."""
    program = (
        "import structlog; from app.logs import configure_logs; configure_logs('info');"
        "structlog.get_logger('app').info('said'); print('went on')"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.stdout == "went on\n"
