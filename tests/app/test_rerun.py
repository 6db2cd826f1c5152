"""A job that is submitted again: what its record has pinned, whatever has moved since."""

from __future__ import annotations

from ihvp.jobs.record import JobRecord
from tests.app.driver import Service


def record(service: Service, job_id: str) -> JobRecord:
    return service.jobs.get(job_id)


def test_the_copy_is_the_job_as_it_was_resolved(service: Service) -> None:
    service.register("moving")
    first = service.submit(model="moving@latest", options={"rtol": 1e-4}, tags={"run": "1"}, priority="high")
    service.finish(service.claim(first["id"]), [1.0, 2.0, 3.0])
    service.register("moving", loss={"type": "mse"}, parameters={"include": ["weight"]})

    answer = service.http.post(f"/v1/jobs/{first['id']}/rerun")
    assert answer.status_code == 202
    again = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{again['id']}"
    assert again["id"] != first["id"]
    assert again["state"] == "queued"
    assert again["model"]["reference"] == "moving@1"
    assert record(service, again["id"]).request == record(service, first["id"]).request
    assert record(service, first["id"]).request.model.given == "moving@latest"


def test_a_key_makes_one_copy_and_is_no_key_of_another_job(service: Service) -> None:
    first, second = service.submit(), service.submit()
    headers = {"Idempotency-Key": "again"}
    made = service.http.post(f"/v1/jobs/{first['id']}/rerun", headers=headers)
    repeated = service.http.post(f"/v1/jobs/{first['id']}/rerun", headers=headers)
    assert (made.status_code, repeated.status_code) == (202, 200)
    assert made.json()["id"] == repeated.json()["id"]
    assert repeated.headers["Idempotent-Replayed"] == "true"
    other = service.http.post(f"/v1/jobs/{second['id']}/rerun", headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_a_blob_that_is_gone_is_named(service: Service) -> None:
    first = service.submit()
    blob = first["rhs"]["blob"]
    service.blobs.delete(blob)
    answer = service.http.post(f"/v1/jobs/{first['id']}/rerun")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_blob")
    assert first["id"] in answer.json()["detail"]
    assert answer.json()["given"] == blob
