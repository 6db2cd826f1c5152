"""The OpenAPI document: complete, and true of the service (Schemathesis, all checks)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.main import create_app
from ihvp.keys.key import KeySpec, Scope, Secret
from ihvp.keys.redis_store import RedisKeyStore
from tests.app.conftest import MakeService
from tests.app.driver import Service
from tests.app.test_uploads import started

CONFIG = Path(__file__).with_name("schemathesis.toml")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def test_every_route_of_the_job_api_is_described(document: dict[str, Any]) -> None:
    assert {name for name, _ in operations(document)} == {
        "POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/{job_id}", "DELETE /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/rerun", "POST /v1/jobs/{job_id}/cancel",
        "GET /v1/jobs/{job_id}/result", "GET /v1/jobs/{job_id}/influence",
        "GET /v1/jobs/{job_id}/events", "POST /v1/models", "GET /v1/models", "GET /v1/models/{name}",
        "GET /v1/models/{name}/{version}", "PUT /v1/models/{name}/aliases/{alias}",
        "DELETE /v1/models/{name}/aliases/{alias}", "PUT /v1/blobs/{digest}", "GET /v1/blobs/{digest}",
        "HEAD /v1/blobs/{digest}", "OPTIONS /v1/uploads", "POST /v1/uploads", "HEAD /v1/uploads/{upload_id}",
        "PATCH /v1/uploads/{upload_id}", "DELETE /v1/uploads/{upload_id}",
        "GET /v1/webhooks/deliveries", "GET /v1/webhooks/deliveries/{delivery_id}",
        "POST /v1/webhooks/deliveries/{delivery_id}/replay", "GET /v1/webhooks/secrets", "POST /v1/webhooks/secrets",
        "POST /v1/webhooks/secrets/rotate", "GET /v1/methods", "GET /healthz", "GET /readyz", "GET /metrics",
    }  # fmt: skip


def test_every_operation_has_an_id_a_tag_a_summary_and_examples(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for name, operation in operations(document):
        assert operation["tags"], name
        assert operation["summary"], name
        assert operation["description"], name
        for parameter in operation.get("parameters", []):
            if "$ref" not in parameter:
                described = parameter.keys() | parameter["schema"].keys()
                assert described & {"example", "examples", "default", "enum", "description"}, (name, parameter)
        for media in operation.get("requestBody", {}).get("content", {}).values():
            binary = media["schema"].get("format") == "binary"
            assert binary or "examples" in media or "examples" in media["schema"], name
        for status, response in operation["responses"].items():
            assert "X-Request-ID" in response["headers"], (name, status)
            for kind, media in response.get("content", {}).items():
                binary = media.get("schema", {}).get("format") == "binary"
                assert binary or "example" in media or "examples" in media, (name, status, kind)


def test_every_error_is_a_problem_with_an_example_a_code(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400 or (name, status) == ("GET /readyz", "503") or name.startswith("HEAD"):
                continue
            assert list(response["content"]) == ["application/problem+json"], (name, status)
            for code, example in response["content"]["application/problem+json"]["examples"].items():
                assert example["value"]["code"] == code
                assert example["value"]["status"] == int(status)


def test_examples_in_the_document_are_what_the_service_takes(service: Service) -> None:
    """The documented submission is accepted for a model that the documented registration describes."""
    document = service.http.get("/openapi.json").json()
    body = document["paths"]["/v1/models"]["post"]["requestBody"]["content"]["application/json"]
    example = (body.get("examples") or body["schema"]["examples"])[0]
    registered = service.spec()
    response = service.http.post(
        "/v1/models", json={**example, "weights": registered["weights"], "data": registered["data"]}
    )
    assert response.status_code == 201, response.text
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    for name in ("inline", "blocks"):
        response = service.http.post("/v1/jobs", json=body["examples"][name]["value"])
        assert response.status_code == 202, response.text


def test_docs_page(service: Service) -> None:
    response = service.http.get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text


@pytest.fixture
def fuzzed(make_service: MakeService) -> Iterator[Service]:
    """A service with something in it, and a worker that finishes each job as soon as it is there."""
    service = make_service(max_wait_s=0.05)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            service.jobs.worker_alive("test-worker")
            job = service.jobs.claim("test-worker", 30.0)
            if job is not None:
                service.finish(job, np.zeros(job.request.rhs.shape, np.float32), np.zeros((1, 4), np.float32))

    worker = threading.Thread(target=work)
    worker.start()
    yield service
    stop.set()
    worker.join()


def test_the_service_does_as_its_document_says(fuzzed: Service, tmp_path: Path) -> None:
    """Schemathesis with all checks in all its phases; what is excluded stands in schemathesis.toml, with reasons."""
    check_document(fuzzed, tmp_path)


def test_it_does_so_with_keys(fuzzed: Service, tmp_path: Path) -> None:
    """The same checks, briefly, as a tenant with a key; that a key is not ignored is one of them."""
    secret = Secret.draw()
    with closing(RedisKeyStore.from_settings(fuzzed.settings)) as keys:
        keys.create(secret.id, KeySpec(name="test", tenant="acme", scope=Scope.Admin, sha256=secret.sha256))
    fuzzed.http.headers["Authorization"] = f"Bearer {secret}"
    header = ["--header", f"Authorization: Bearer {secret}"]
    check_document(fuzzed, tmp_path, *header, "--phases", "examples,coverage")


def check_document(fuzzed: Service, tmp_path: Path, *options: str) -> None:
    document = fuzzed.http.get("/openapi.json").json()
    assert fuzzed.http.post("/v1/webhooks/secrets").status_code == 201
    hook = {"url": "https://platform.example/hook", "events": ["job.finished", "job.cancelled"]}
    told = fuzzed.submit(webhook=hook)
    while fuzzed.http.get(f"/v1/jobs/{told['id']}", params={"wait": 5}).json()["state"] != "succeeded":
        pass
    (delivery,) = fuzzed.http.get(told["links"]["deliveries"]).json()["deliveries"]
    # What is there takes the place of the examples, so that more than 404 is reached.
    known = {
        "job_id": fuzzed.submit(influence={"on": "training"})["id"],
        "name": fuzzed.register("house-prices")["name"],
        "version": "1",
        "alias": "champion",
        "delivery_id": delivery["id"],
        "digest": fuzzed.spec()["weights"],
        "upload_id": started(fuzzed, b"12345").rpartition("/")[2],
    }
    for _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            if parameter.get("in") == "path":
                parameter["schema"].pop("examples", None)
                parameter["example"] = known[parameter["name"]]
    fuzzed.http.put("/v1/models/house-prices/aliases/champion", json={"version": 1})
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    command = ["-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", str(tmp_path / "openapi.json")]
    done = subprocess.run(
        [sys.executable, *command, "--url", str(fuzzed.http.base_url), *options],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(CONFIG.with_name("schemathesis_hooks.py"))},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert "No issues found" in done.stdout or " passed" in done.stdout
