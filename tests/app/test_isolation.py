"""No operation of the OpenAPI document shows one tenant what is another's: the map below has to name each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from app.main import create_app
from app.scopes import SCOPES
from ihvp.keys.key import KeySpec, Scope, Secret
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.settings import Settings
from tests.app.conftest import running_service
from tests.app.driver import Service, digest_of, npy, problem, tensors

TUS = {"Tus-Resumable": "1.0.0"}


@dataclass(frozen=True)
class World:
    """What tenant A has, and tenant B's way to the service."""

    a: Service
    b: httpx.Client
    readers: dict[str, httpx.Client]
    job: dict[str, Any]
    waiting: dict[str, Any]
    spec: dict[str, Any]
    upload: str
    result: str
    scores: str


@pytest.fixture(scope="module")
def world(module_settings: Settings) -> Iterator[World]:
    with running_service(module_settings) as a, closing(RedisKeyStore.from_settings(module_settings)) as keys:

        def client(tenant: str, scope: Scope) -> httpx.Client:
            secret = Secret.draw()
            keys.create(secret.id, KeySpec(name="test", tenant=tenant, scope=scope, sha256=secret.sha256))
            headers = {"Authorization": f"Bearer {secret}"}
            return httpx.Client(base_url=a.http.base_url, headers=headers, timeout=20)

        a.http = client("a", Scope.Admin)
        spec = a.spec()
        a.register("secret")
        done = a.finished(model="secret@1", influence={"on": "training"}, scores=np.zeros((1, 10)))
        waiting = a.submit(model="secret@1", tags={"of": "a"})
        made = a.http.post(
            "/v1/uploads",
            headers={
                **TUS,
                "Upload-Length": "5",
                "Upload-Metadata": f"sha256 {base64.b64encode(digest_of(b'12345')[7:].encode()).decode()}",
            },
        )
        assert made.status_code == 201, made.text
        record = a.jobs.get(done["id"])
        assert record.result is not None
        assert record.tenant == "a"
        yield World(
            a,
            client("b", Scope.Admin),
            {scope.value: client("a", scope) for scope in Scope},
            done,
            waiting,
            spec,
            made.headers["location"],
            record.result.digest,
            str(record.result.influence_digest),
        )


def missing(response: httpx.Response, code: str) -> None:
    if response.request.method == "HEAD":
        assert response.status_code == 404
    else:
        problem(response, 404, code)


def on_job(method: str, path: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        for job in (world.job, world.waiting):
            url = path.format(job_id=job["id"])
            missing(world.b.request(method, url), "job_not_found")
            etag = world.a.http.get(f"/v1/jobs/{job['id']}").headers["etag"]
            missing(world.b.request(method, url, headers={"If-None-Match": etag}), "job_not_found")
            assert world.a.http.get(f"/v1/jobs/{job['id']}").json() == job_now(world, job)

    return check


def job_now(world: World, job: dict[str, Any]) -> Any:
    return world.a.http.get(f"/v1/jobs/{job['id']}").json()


def get_result(world: World) -> None:
    """A's result, and A's own results projected on a blob of B's."""
    on_job("GET", "/v1/jobs/{job_id}/result")(world)
    rows = npy(np.array([1.0, 0.0, -1.0]))
    digest = digest_of(rows)
    assert world.b.put(f"/v1/blobs/{digest}", content=rows).status_code == 201
    path = f"/v1/jobs/{world.job['id']}/result?projection={digest}"
    problem(world.a.http.get(path), 422, "unknown_blob")
    missing(world.b.get(path), "job_not_found")
    world.a.put(rows)
    assert world.a.http.get(path).json()["dots"] == [[-2.0]]


def submit(world: World) -> None:
    """A job on A's model, on A's blobs, under A's key."""
    good = {"rhs": {"inline": [1.0, 2.0, 3.0]}}
    for model in ("secret", "secret@1", "secret@latest"):
        problem(world.b.post("/v1/jobs", json={**good, "model": model}), 422, "unknown_model")
    for dry in ("", "?dry_run=true"):
        problem(world.b.post(f"/v1/jobs{dry}", json={**good, "model": world.spec}), 422, "unknown_blob")
    mine = register_own(world)
    for rhs in (
        {"blob": world.result},
        {"gradient_of": {"inputs": world.spec["data"]["inputs"], "targets": world.spec["data"]["targets"]}},
    ):
        problem(world.b.post("/v1/jobs", json={"model": mine, "rhs": rhs}), 422, "unknown_blob")
    key = {"Idempotency-Key": "the-same"}
    first = world.a.http.post("/v1/jobs", json={**good, "model": "secret@1"}, headers=key)
    second = world.b.post("/v1/jobs", json={**good, "model": mine}, headers=key)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] != second.json()["id"]
    assert "idempotent-replayed" not in second.headers


def register_own(world: World) -> str:
    """A model of B's own, of other bytes."""
    rng = np.random.default_rng(5)
    own = {
        "weights": tensors(weight=np.full((1, 2), 7, np.float32), bias=np.zeros(1, np.float32)),
        "inputs": npy(rng.normal(size=(4, 2)).astype(np.float32)),
        "targets": npy(rng.normal(size=(4, 1)).astype(np.float32)),
    }
    for data in own.values():
        assert world.b.put(f"/v1/blobs/{digest_of(data)}", content=data).status_code in (200, 201)
    spec = {
        **world.spec,
        "weights": digest_of(own["weights"]),
        "data": {name: digest_of(own[name]) for name in ("inputs", "targets")},
    }
    # The name is A's as well, and B's first version is 1 all the same.
    response = world.b.post("/v1/models", json={"name": "own", **spec})
    assert response.status_code in (200, 201), response.text
    reference: str = response.json()["reference"]
    return reference


def register(world: World) -> None:
    problem(world.b.post("/v1/models", json={"name": "stolen", **world.spec}), 422, "unknown_blob")


def list_jobs(world: World) -> None:
    theirs = {world.job["id"], world.waiting["id"]}
    for query in ("", "?state=queued", "?state=succeeded", "?model=secret", "?model=secret@latest", "?tag=of:a"):
        page = world.b.get(f"/v1/jobs{query}").json()
        assert not theirs & {job["id"] for job in page["jobs"]}, query
        assert not [job for job in page["jobs"] if job["model"]["reference"] == "secret@1"]
    assert theirs <= {job["id"] for job in world.a.http.get("/v1/jobs").json()["jobs"]}


def list_models(world: World) -> None:
    assert "secret" not in [model["name"] for model in world.b.get("/v1/models").json()["models"]]
    assert "secret" in [model["name"] for model in world.a.http.get("/v1/models").json()["models"]]


def list_versions(world: World) -> None:
    missing(world.b.get("/v1/models/secret"), "model_not_found")


def get_model(world: World) -> None:
    for version in ("1", "latest"):
        missing(world.b.get(f"/v1/models/secret/{version}"), "model_not_found")


def set_alias(world: World) -> None:
    missing(world.b.put("/v1/models/secret/aliases/mine", json={"version": 1}), "model_not_found")
    assert world.a.http.get("/v1/models/secret").json()["aliases"].get("mine") is None


def drop_alias(world: World) -> None:
    assert world.a.http.put("/v1/models/secret/aliases/theirs", json={"version": 1}).status_code == 200
    missing(world.b.get("/v1/models/secret/theirs"), "model_not_found")
    missing(world.b.delete("/v1/models/secret/aliases/theirs"), "model_not_found")
    assert world.a.http.get("/v1/models/secret").json()["aliases"]["theirs"] == 1


def blob(method: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        for digest in (world.spec["weights"], world.spec["data"]["inputs"], world.result, world.scores):
            headers = {"If-None-Match": f'"{digest.removeprefix("sha256:")}"'}
            missing(world.b.request(method, f"/v1/blobs/{digest}"), "blob_not_found")
            missing(world.b.request(method, f"/v1/blobs/{digest}", headers=headers), "blob_not_found")
            assert world.a.http.request(method, f"/v1/blobs/{digest}").status_code == 200

    return check


def put_blob(world: World) -> None:
    """The first upload of a tenant is a first one, whoever has the bytes; they are read and checked all the same."""
    data = tensors(only=np.arange(4))
    digest = digest_of(data)
    assert world.a.http.put(f"/v1/blobs/{digest}", content=data).status_code == 201
    problem(world.b.put(f"/v1/blobs/{digest}", content=b"other bytes"), 422, "digest_mismatch")
    problem(world.b.put(f"/v1/blobs/{digest}", content=b""), 422, "digest_mismatch")
    missing(world.b.get(f"/v1/blobs/{digest}"), "blob_not_found")
    assert world.b.put(f"/v1/blobs/{digest}", content=data).status_code == 201
    assert world.b.put(f"/v1/blobs/{digest}", content=data).status_code == 200
    assert world.b.get(f"/v1/blobs/{digest}").content == data


def on_upload(method: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        body = b"12345" if method == "PATCH" else None
        missing(world.b.request(method, world.upload, headers=headers, content=body), "upload_not_found")
        assert world.a.http.head(world.upload, headers=TUS).headers["upload-offset"] == "0"

    return check


def create_upload(world: World) -> None:
    """What A uploads in parts is A's alone."""
    data = b"in parts"
    metadata = f"sha256 {base64.b64encode(digest_of(data)[7:].encode()).decode()}"
    headers = {**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": metadata}
    headers["Content-Type"] = "application/offset+octet-stream"
    assert world.a.http.post("/v1/uploads", headers=headers, content=data).status_code == 201
    assert world.a.http.get(f"/v1/blobs/{digest_of(data)}").content == data
    missing(world.b.get(f"/v1/blobs/{digest_of(data)}"), "blob_not_found")


def delivery_of_a(world: World) -> dict[str, Any]:
    """A delivery of a job of A, signed with A's secret."""
    world.a.http.post("/v1/webhooks/secrets")
    job = world.a.submit(model="secret@1", webhook={"url": "https://platform.example/hook"})
    world.a.http.post(f"/v1/jobs/{job['id']}/cancel")
    (delivery,) = world.a.http.get(job["links"]["deliveries"]).json()["deliveries"]
    found: dict[str, Any] = delivery
    return found


def list_deliveries(world: World) -> None:
    theirs = delivery_of_a(world)
    for query in ("", f"?job={theirs['job_id']}", "?state=pending"):
        assert world.b.get(f"/v1/webhooks/deliveries{query}").json() == {"deliveries": [], "next": None}


def on_delivery(method: str, what: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        url = delivery_of_a(world)["links"][what]
        missing(world.b.request(method, url), "delivery_not_found")
        assert world.a.http.request(method, url).is_success

    return check


def secrets(world: World) -> None:
    """What signs A's messages signs none of B's, and B is not told that A has one."""
    delivery_of_a(world)
    theirs = {each["id"] for each in world.a.http.get("/v1/webhooks/secrets").json()["secrets"]}
    assert theirs
    mine = {each["id"] for each in world.b.get("/v1/webhooks/secrets").json()["secrets"]}
    if not mine:
        problem(world.b.post("/v1/webhooks/secrets/rotate"), 422, "webhook_secret_missing")
        assert world.b.post("/v1/webhooks/secrets").status_code == 201
    rotated = world.b.post("/v1/webhooks/secrets/rotate").json()["secrets"]
    assert not theirs & {each["id"] for each in rotated}
    assert theirs == {each["id"] for each in world.a.http.get("/v1/webhooks/secrets").json()["secrets"]}


def nothing(world: World) -> None:
    """It says nothing of any tenant."""
    del world


CHECKS: dict[str, Callable[[World], None]] = {
    "submitJob": submit,
    "listJobs": list_jobs,
    "getJob": on_job("GET", "/v1/jobs/{job_id}"),
    "cancelJob": on_job("POST", "/v1/jobs/{job_id}/cancel"),
    "rerunJob": on_job("POST", "/v1/jobs/{job_id}/rerun"),
    "deleteJob": on_job("DELETE", "/v1/jobs/{job_id}"),
    "getResult": get_result,
    "getInfluence": on_job("GET", "/v1/jobs/{job_id}/influence"),
    "streamJobEvents": on_job("GET", "/v1/jobs/{job_id}/events"),
    "registerModel": register,
    "listModels": list_models,
    "listModelVersions": list_versions,
    "getModel": get_model,
    "setModelAlias": set_alias,
    "dropModelAlias": drop_alias,
    "putBlob": put_blob,
    "getBlob": blob("GET"),
    "headBlob": blob("HEAD"),
    "createUpload": create_upload,
    "lookAtUpload": on_upload("HEAD"),
    "continueUpload": on_upload("PATCH"),
    "endUpload": on_upload("DELETE"),
    "describeUploads": nothing,
    "listDeliveries": list_deliveries,
    "getDelivery": on_delivery("GET", "self"),
    "replayDelivery": on_delivery("POST", "replay"),
    "listWebhookSecrets": secrets,
    "createWebhookSecret": secrets,
    "rotateWebhookSecret": secrets,
    "listMethods": nothing,
    "getHealth": nothing,
    "getReadiness": nothing,
    "getMetrics": nothing,
}
OPERATIONS = [
    (operation["operationId"], method.upper(), path)
    for path, methods in create_app().openapi()["paths"].items()
    for method, operation in methods.items()
]


@pytest.mark.parametrize(("name", "method", "path"), OPERATIONS, ids=[name for name, _, _ in OPERATIONS])
class TestEachOperation:
    def test_another_tenants_things_do_not_exist(self, world: World, name: str, method: str, path: str) -> None:
        assert name in CHECKS, f"{method} {path} is new: say here how it is held that it shows a tenant its own alone"
        CHECKS[name](world)

    def test_it_needs_its_scope(self, world: World, name: str, method: str, path: str) -> None:
        assert name in SCOPES, f"{method} {path} is new: app/scopes.py has to say what it needs"
        needed = SCOPES[name]
        url = path
        for part, value in {
            "job_id": "job_00000000000000000000000000",
            "upload_id": "0" * 32,
            "delivery_id": "msg_1",
        }.items():
            url = url.replace(f"{{{part}}}", value)
        url = url.replace("{digest}", world.result).replace("{name}", "none").replace("{version}", "1")
        stranger = httpx.request(method, f"{world.a.http.base_url}{url}")
        if needed is None:
            assert stranger.status_code not in (401, 403)
            return
        assert stranger.status_code == 401
        for scope, client in world.readers.items():
            headers = TUS if "/uploads" in path else {}
            with client.stream(method, url, headers=headers) as response:
                assert (response.status_code == 403) == (not Scope(scope).allows(needed)), scope
                assert response.status_code != 401


def test_nothing_is_named_that_is_not_there() -> None:
    assert {*CHECKS} == {*SCOPES} == {name for name, _, _ in OPERATIONS}
