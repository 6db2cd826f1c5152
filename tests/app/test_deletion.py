"""Deleting a job takes its result along at once, and nothing that anybody else has a use for."""

from __future__ import annotations

import numpy as np

from tests.app.driver import Service, problem


def gone(service: Service, digest: str) -> bool:
    response = service.http.head(f"/v1/blobs/{digest}")
    assert response.status_code in (200, 404)
    return response.status_code == 404


def delete(service: Service, job_id: str) -> None:
    assert service.http.delete(f"/v1/jobs/{job_id}").status_code == 204


def blobs_of(service: Service, job_id: str) -> tuple[str, str]:
    result = service.jobs.get(job_id).result
    assert result is not None
    assert result.influence_digest is not None
    return result.digest, result.influence_digest


def test_the_bytes_of_a_deleted_result_are_not_there_any_more(service: Service) -> None:
    job = service.finished(scores=np.arange(4.0))
    digests = blobs_of(service, job["id"])
    assert not any(gone(service, digest) for digest in digests)
    delete(service, job["id"])
    assert all(gone(service, digest) for digest in digests)
    problem(service.http.get(f"/v1/blobs/{digests[0]}"), 404, "blob_not_found")


def test_what_another_job_has_or_reads_stays(service: Service) -> None:
    first = service.finished(scores=np.arange(5.0))
    second = service.finished(scores=np.arange(5.0))
    x, scores = blobs_of(service, first["id"])
    assert blobs_of(service, second["id"])[1] == scores
    # A third one takes the first one's x as its right-hand side.
    third = service.submit(rhs={"blob": x})
    delete(service, first["id"])
    assert not gone(service, x)
    assert not gone(service, scores)
    service.http.post(f"/v1/jobs/{third['id']}/cancel")
    delete(service, second["id"])
    assert gone(service, scores)


def test_what_a_model_is_made_of_stays(service: Service) -> None:
    job = service.finished(x=np.ones((10, 2), np.float32))
    x = service.jobs.get(job["id"]).result.digest  # type: ignore[union-attr]
    data = {**service.spec()["data"], "inputs": f"{x}#x"}
    service.register("made-of-a-result", data=data)
    delete(service, job["id"])
    assert not gone(service, x)


def test_what_was_uploaded_since_stays_for_its_time(service: Service) -> None:
    """Who has just uploaded the same bytes is about to refer to them."""
    job = service.finished(x=np.array([3.0, 1.0, 4.0], np.float32))
    result = service.jobs.get(job["id"]).result
    assert result is not None
    assert service.put(service.http.get(f"/v1/blobs/{result.digest}").content) == result.digest
    delete(service, job["id"])
    assert not gone(service, result.digest)
