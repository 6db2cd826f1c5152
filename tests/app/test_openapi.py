"""The OpenAPI document: complete, and true of the service (Schemathesis, all checks)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.main import create_app
from tests.app.conftest import _service
from tests.app.driver import Service

METHODS = ("get", "post", "put", "delete", "head")

# A body that fits the schema may still be refused for what it refers to (422 with a code, as the precisions want):
# the schema cannot say which blobs were uploaded, which models registered, or what hashes to what.
REFUSED_FOR_MEANING = {
    "submitJob": "the model has to be registered, and b to have as many numbers as it has parameters",
    "registerModel": "the blobs have to be there, and to fit the architecture and each other",
    "putBlob": "the body has to hash to the digest in the address",
}


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
        "POST /v1/jobs/{job_id}/cancel", "GET /v1/jobs/{job_id}/result", "GET /v1/jobs/{job_id}/influence",
        "GET /v1/jobs/{job_id}/events", "POST /v1/models", "GET /v1/models", "GET /v1/models/{name}",
        "GET /v1/models/{name}/{version}", "PUT /v1/blobs/{digest}", "GET /v1/blobs/{digest}",
        "HEAD /v1/blobs/{digest}", "GET /v1/methods", "GET /healthz", "GET /readyz", "GET /metrics",
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
    response = service.http.post("/v1/jobs", json=body["examples"]["inline"]["value"])
    assert response.status_code == 202, response.text


def test_docs_page(service: Service) -> None:
    response = service.http.get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text


@pytest.fixture(scope="module")
def fuzzed(valkey_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from ihvp.settings import Settings

    own = Settings(
        redis_url=valkey_server.url,
        namespace="fuzzed",
        data_dir=tmp_path_factory.mktemp("fuzzed"),
        max_wait_s=0.05,
        log_level="error",
    )
    with _service(own) as running:
        job = running.finished(scores=np.zeros((1, 4), np.float32), influence={"on": "training"})
        document = running.http.get("/openapi.json").json()
        # What is there, so that more than 404 is reached: examples are tried as they stand.
        known = {
            "job_id": job["id"], "name": "line", "version": "1", "digest": running.spec()["weights"]
        }  # fmt: skip
        for _, operation in operations(document):
            for parameter in operation.get("parameters", []):
                if parameter.get("in") == "path":
                    parameter["schema"].pop("examples", None)
                    parameter["example"] = known[parameter["name"]]
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=str(running.http.base_url))
        yield schema


schema = schemathesis.pytest.from_fixture("fuzzed")


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_service_does_as_its_document_says(case: schemathesis.Case) -> None:
    refused = case.operation.definition.raw.get("operationId") in REFUSED_FOR_MEANING
    case.call_and_validate(
        checks=[CHECKS.get_one(name) for name in CHECKS.get_all_names()],
        excluded_checks=[positive_data_acceptance] if refused else [],
        timeout=20,
    )
