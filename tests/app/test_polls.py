"""A plain look at a job takes a short way; nobody can tell but by how soon the answer comes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service, problem

MADE_FOR_EACH = {"date", "x-request-id"}


def told(response: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer that is not of its moment."""
    headers = {name: value for name, value in response.headers.items() if name not in MADE_FOR_EACH}
    return response.status_code, response.content, headers


@pytest.mark.parametrize("known", [None, "the tag", "*", '"another"', 'W/"another", the tag'])
def test_the_short_way_answers_as_the_declared_route_does(service: Service, known: str | None) -> None:
    path = f"/v1/jobs/{service.submit()['id']}"
    tag = service.http.get(path).headers["etag"]
    headers = {} if known is None else {"If-None-Match": known.replace("the tag", tag)}
    # A query sends the request the long way, where FastAPI reads its parameters.
    short, declared = (service.http.get(path + query, headers=headers) for query in ("", "?wait=0"))
    assert told(short) == told(declared)
    assert short.status_code == (304 if known is not None and known != '"another"' else 200)
    assert short.headers["x-request-id"]


@pytest.mark.parametrize(
    "job_id", ["job_01KAT5ZXQ6V5M9W3E8H2R7N4CD", "job_x", "job_01KAT5ZXQ6V5M9W3E8H2R7N4CDX", "%00"]
)
def test_what_is_not_there_is_told_alike(service: Service, job_id: str) -> None:
    short, declared = (service.http.get(f"/v1/jobs/{job_id}{query}") for query in ("", "?wait=0"))
    own = {"instance", "request_id"}
    told_of = [problem(each, 404, "job_not_found") for each in (short, declared)]
    first, second = ({name: value for name, value in each.items() if name not in own} for each in told_of)
    assert first == second


def test_a_poll_is_counted_and_logged_under_its_route(make_service: MakeService) -> None:
    service = make_service()
    path = f"/v1/jobs/{service.submit()['id']}"
    for _ in range(3):
        service.http.get(path)
    counted = service.http.get("/metrics").text
    assert 'ihvp_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 3.0' in counted


def test_polls_of_one_moment_each_get_their_own_job(service: Service) -> None:
    ids = [service.submit(tags={"n": str(number)})["id"] for number in range(8)]
    missing = "job_01KAT5ZXQ6V5M9W3E8H2R7N4CD"

    def poll(job_id: str) -> tuple[str, Any]:
        response = service.http.get(f"/v1/jobs/{job_id}")
        return job_id, response.json()["id"] if response.status_code == 200 else response.json()["code"]

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(poll, [*ids, missing] * 20))
    assert all(found == (job_id if job_id != missing else "job_not_found") for job_id, found in seen)
