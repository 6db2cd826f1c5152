"""Submitting, looking at, listing, cancelling and deleting jobs."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import redis

from tests.app.conftest import MakeService
from tests.app.driver import Service, npy, problem, tensors

# --- submit


def test_submit_answers_202_with_the_job_and_where_it_is(service: Service) -> None:
    body = service.submission(hessian_perturbation=0.5, tags={"run": "42"}, influence={"on": "training"})
    response = service.http.post("/v1/jobs", json=body)
    assert response.status_code == 202
    job = response.json()
    assert re.fullmatch(r"job_[0-9A-HJKMNP-TV-Z]{26}", job["id"])
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert job["state"] == "queued"
    assert job["model"]["reference"] == "line@1"
    assert job["model"]["num_params"] == 3
    assert job["hessian_perturbation"] == 0.5
    assert job["tags"] == {"run": "42"}
    assert job["queue_position"] is not None
    assert service.http.get(response.headers["location"]).json()["id"] == job["id"]


def test_options_are_stored_after_the_services_defaults(service: Service) -> None:
    unset = {"preconditioner": None, "preconditioner_rank": None, "seed": 0, "recycle": True, "single_precision": True}
    assert service.submit()["options"] == {"rtol": 1e-5, "atol": 0.0, "maxiter": None, **unset}
    wide = service.register("wide-options", dtype="float64")["reference"]
    assert service.submit(model=wide)["options"]["rtol"] == 1e-8
    given = {"rtol": 1e-3, "maxiter": 7}
    assert service.submit(options=given)["options"] == {**given, "atol": 0.0, **unset}
    assert service.submit(method="auto", model=wide)["options"]["rtol"] == 1e-8
    assert service.submit(method="direct")["options"] == {}
    assert service.submit(method="lissa")["options"]["rtol"] == 1e-4


@pytest.mark.parametrize(
    ("dtype", "inline"), [("float32", [0.1, -2.0, 3e-5]), ("float64", [[0.1, -2.0, 3e-5], [1, 2, 3]])]
)
def test_an_inline_rhs_becomes_a_blob_in_the_models_dtype(service: Service, dtype: str, inline: Any) -> None:
    model = service.register(f"inline-{dtype}", dtype=dtype)["reference"]
    job = service.submit(model=model, rhs={"inline": inline})
    expected = np.array(inline, dtype)
    assert job["rhs"]["shape"] == list(expected.shape)
    import safetensors.numpy

    blob = service.http.get(f"/v1/blobs/{job['rhs']['blob']}").content
    stored = safetensors.numpy.load(blob)["rhs"]
    assert stored.dtype == expected.dtype
    assert np.array_equal(stored, expected)


def test_rhs_blobs_in_every_form(service: Service) -> None:
    layout = {"weight": (1, 2), "bias": (1,)}
    forms = {
        npy(np.zeros(3, np.float32)): [3],
        npy(np.zeros((2, 3), np.float64)): [2, 3],
        tensors(anything=np.zeros((4, 3), np.float32)): [4, 3],
        tensors(**{name: np.zeros(shape, np.float32) for name, shape in layout.items()}): [3],
        tensors(**{name: np.zeros((5, *shape), np.float32) for name, shape in layout.items()}): [5, 3],
    }
    for data, shape in forms.items():
        assert service.submit(rhs={"blob": service.put(data)})["rhs"]["shape"] == shape
    several = service.put(tensors(mine=np.zeros(3, np.float32), other=np.zeros(7, np.float32)))
    assert service.submit(rhs={"blob": f"{several}#mine"})["rhs"]["shape"] == [3]


def test_gradient_of_has_one_row_a_point(service: Service) -> None:
    points = {
        "inputs": service.put(npy(np.zeros((4, 2), np.float32))),
        "targets": service.put(npy(np.zeros((4, 1), np.float32))),
    }
    assert service.submit(rhs={"gradient_of": points})["rhs"]["shape"] == [4, 3]


def test_a_spec_may_be_sent_inline(service: Service) -> None:
    job = service.submit(model=service.spec())
    assert job["model"]["reference"] is None
    assert job["model"]["num_params"] == 3
    assert job["model"]["digest"] == service.register()["digest"]
    found = problem(
        service.http.post("/v1/jobs", json={"model": service.spec(), "rhs": {"inline": [1.0]}}),
        422,
        "rhs_shape_mismatch",
    )
    assert "order of the architecture" in found["hint"]
    problem(
        service.http.post("/v1/jobs", json={"model": service.spec(loss="hinge"), "rhs": {"inline": [1.0]}}),
        422,
        "unknown_loss",
    )


def test_frozen_parameters_shorten_the_rhs(service: Service) -> None:
    model = service.register("biased", parameters={"include": ["bias"]})
    assert model["num_params"] == 1
    assert service.submit(model=model["reference"], rhs={"inline": [1.0]})["rhs"]["shape"] == [1]


def test_a_blob_that_a_job_refers_to_is_kept_from_the_sweep(service: Service) -> None:
    import os

    digest = service.put(npy(np.full(3, 7, np.float32)))
    path = service.blobs.local_path(digest)
    old = time.time() - 10 * 24 * 3600
    os.utime(path, (old, old))
    service.submit(rhs={"blob": digest})
    assert service.blobs.stat(digest).age_s < 60


def test_a_broker_that_is_away_refuses_no_job(make_service: MakeService) -> None:
    service = make_service(broker_url="redis://127.0.0.1:1/0")
    started = time.monotonic()
    jobs = [service.submit()["id"] for _ in range(5)]
    assert time.monotonic() - started < 3
    assert service.jobs.queue_length() == 5
    assert [job["id"] for job in service.http.get("/v1/jobs").json()["jobs"]] == jobs[::-1]


def test_the_message_carries_the_job_id_on_the_settings_queue(make_service: MakeService) -> None:
    from celery import Celery

    service = make_service()
    job = service.submit()
    with Celery(broker=service.settings.resolved_broker_url).connection_for_read() as connection:
        queue = connection.SimpleQueue(service.settings.queue_name)
        message = queue.get(timeout=5)
        message.ack()
        assert message.headers["task"] == "ihvp.solve"
        assert message.payload[0] == [job["id"]]


# --- look


def test_a_job_through_its_life(service: Service) -> None:
    job = service.submit()
    path = f"/v1/jobs/{job['id']}"
    claimed = service.claim(job["id"])
    seen = service.http.get(path).json()
    assert (seen["state"], seen["attempt"], seen["queue_position"]) == ("running", 1, None)
    assert seen["started_at"]
    service.report(claimed, 5)
    assert service.http.get(path).json()["progress"]["iteration"] == 5
    service.finish(claimed, np.array([1.0, 2.0, 3.0], np.float32))
    seen = service.http.get(path).json()
    assert seen["state"] == "succeeded"
    assert seen["result"]["certificate"][0]["status"] == "converged"
    assert seen["links"]["result"] == f"{path}/result"
    assert "influence" not in seen["links"]


def test_the_etag_changes_exactly_when_the_body_does(service: Service) -> None:
    job = service.submit()
    path = f"/v1/jobs/{job['id']}"
    bodies: dict[str, bytes] = {}

    def look() -> str:
        response = service.http.get(path)
        etag = response.headers["etag"]
        assert bodies.setdefault(etag, response.content) == response.content
        again = service.http.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == etag
        assert service.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        return str(etag)

    tags = [look()]
    claimed = service.claim(job["id"])
    tags.append(look())
    service.report(claimed, 1)
    tags.append(look())
    service.report(claimed, 2)
    tags.append(look())
    service.finish(claimed, np.zeros(3, np.float32))
    tags.append(look())
    assert len(set(tags)) == len(tags) == len(set(bodies.values()))


def test_the_queue_position_falls_and_changes_the_etag(make_service: MakeService) -> None:
    service = make_service()
    first, second = service.submit(), service.submit()
    assert [first["queue_position"], second["queue_position"]] == [0, 1]
    path = f"/v1/jobs/{second['id']}"
    before = service.http.get(path)
    service.claim(first["id"])
    after = service.http.get(path)
    assert after.json()["queue_position"] == 0
    assert before.headers["etag"] != after.headers["etag"]


def test_a_waiting_job_says_when_it_is_expected(make_service: MakeService) -> None:
    service = make_service()
    assert service.submit()["eta"] == {"starts_at": None, "ends_at": None, "unknown": "no_live_worker"}
    service.jobs.worker_alive("w1")
    waiting = service.submit()
    assert waiting["eta"] == {"starts_at": None, "ends_at": None, "unknown": "nothing_measured"}
    service.finished()
    job = service.submit()
    eta = job["eta"]
    assert eta["unknown"] is None
    assert job["created_at"][:10] <= eta["starts_at"][:10]
    assert eta["starts_at"] <= eta["ends_at"]
    path = f"/v1/jobs/{job['id']}"
    first = service.http.get(path)
    assert first.json()["eta"] == eta
    # Nothing moves, so neither does it.
    assert service.http.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    claimed = service.claim(job["id"])
    assert service.http.get(path).json()["eta"] is None
    service.finish(claimed, np.zeros(3, np.float32))


def test_a_change_of_the_eta_alone_changes_the_etag(make_service: MakeService) -> None:
    service = make_service()
    path = f"/v1/jobs/{service.submit()['id']}"
    before = service.http.get(path)
    service.jobs.worker_alive("w1")
    after = service.http.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.json()["queue_position"] == before.json()["queue_position"]
    assert after.json()["eta"] != before.json()["eta"]


def test_a_page_of_waiting_jobs_is_one_round_trip(make_service: MakeService) -> None:
    service = make_service()
    ids = [service.submit()["id"] for _ in range(5)]
    with redis.Redis.from_url(service.settings.redis_url) as server:

        def calls() -> int:
            stats = server.info("commandstats")
            # ZRANK runs within the script too, but not as a request of its own: those are EVALSHA.
            return int(stats["cmdstat_evalsha"]["calls"])

        service.http.get("/v1/jobs").raise_for_status()
        before, requests = calls(), server.info("stats")["total_reads_processed"]
        page = service.http.get("/v1/jobs").json()
        assert calls() - before == 1
        assert server.info("stats")["total_reads_processed"] - requests < 5
    places = {job["id"]: job["queue_position"] for job in page["jobs"]}
    assert [places[job_id] for job_id in ids] == [0, 1, 2, 3, 4]
    assert all(job["eta"]["unknown"] == "no_live_worker" for job in page["jobs"])


# --- wait


def test_a_long_poll_returns_as_soon_as_the_job_moves(service: Service) -> None:
    job = service.submit()
    with ThreadPoolExecutor() as pool:
        started = time.monotonic()
        held = pool.submit(service.http.get, f"/v1/jobs/{job['id']}?wait=10")
        time.sleep(0.3)
        assert not held.done()
        claimed = service.claim(job["id"])
        assert held.result(5).json()["state"] == "running"
        assert time.monotonic() - started < 1.5
        held = pool.submit(service.http.get, f"/v1/jobs/{job['id']}?wait=10")
        time.sleep(0.2)
        service.report(claimed, 1)
        assert held.result(5).json()["progress"]["iteration"] == 1
    service.finish(claimed, np.zeros(3, np.float32))
    started = time.monotonic()
    assert service.http.get(f"/v1/jobs/{job['id']}?wait=10").json()["state"] == "succeeded"
    assert time.monotonic() - started < 0.5


def test_a_long_poll_ends_after_its_time_and_is_capped(make_service: MakeService) -> None:
    service = make_service(max_wait_s=0.4)
    job = service.submit()
    for wait in ("0.3", "3600"):
        started = time.monotonic()
        response = service.http.get(f"/v1/jobs/{job['id']}?wait={wait}")
        assert response.json()["state"] == "queued"
        assert 0.25 < time.monotonic() - started < 1.5
    etag = response.headers["etag"]
    response = service.http.get(f"/v1/jobs/{job['id']}?wait=0.1", headers={"If-None-Match": etag})
    assert response.status_code == 304


def test_with_a_tag_that_is_out_of_date_a_long_poll_returns_at_once(service: Service) -> None:
    job = service.submit()
    known = service.http.get(f"/v1/jobs/{job['id']}").headers["etag"]
    claimed = service.claim(job["id"])
    started = time.monotonic()
    response = service.http.get(f"/v1/jobs/{job['id']}?wait=10", headers={"If-None-Match": known})
    assert response.json()["state"] == "running"
    assert time.monotonic() - started < 0.5
    known = response.headers["etag"]
    with ThreadPoolExecutor() as pool:
        held = pool.submit(service.http.get, f"/v1/jobs/{job['id']}?wait=10", headers={"If-None-Match": known})
        time.sleep(0.2)
        assert not held.done()
        service.report(claimed, 9)
        assert held.result(5).json()["progress"]["iteration"] == 9


# --- list


def test_the_list_is_newest_first_and_filters_restrict_together(make_service: MakeService) -> None:
    service = make_service()
    service.register("one")
    service.register("two")
    a = service.submit(model="one", tags={"run": "1", "who": "ann"})["id"]
    b = service.submit(model="two", method="direct", tags={"run": "1"})["id"]
    c = service.submit(model="one", tags={"run": "2"})["id"]
    service.claim(a)

    def ids(**query: Any) -> list[str]:
        response = service.http.get("/v1/jobs", params=query)
        assert response.status_code == 200, response.text
        return [job["id"] for job in response.json()["jobs"]]

    assert ids() == [c, b, a]
    assert ids(state="running") == [a]
    assert ids(state="queued") == [c, b]
    assert ids(method="direct") == [b]
    assert ids(model="one") == ids(model="one@1") == ids(model="one@latest") == [c, a]
    assert ids(model="one@2") == ids(model="nobody@latest") == []
    assert ids(tag="run:1") == [b, a]
    assert ids(tag=["run:1", "who:ann"]) == [a]
    assert ids(tag="run:1", model="one", state="running") == [a]
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert ids(created_after=soon.isoformat()) == []
    assert ids(created_before=soon.isoformat()) == [c, b, a]
    # As curl sends it, with the + not escaped.
    assert service.http.get(f"/v1/jobs?created_before={soon.isoformat()}").status_code == 200


def test_pages_follow_each_other_without_gap_and_keep_the_filter(make_service: MakeService) -> None:
    service = make_service()
    jobs = [service.submit(tags={"n": str(i), "half": str(i % 2)})["id"] for i in range(7)]
    seen, link = [], "/v1/jobs?limit=2&tag=half:0"
    while link:
        page = service.http.get(link).json()
        assert len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        link = page["next"]
    assert seen == [jobs[6], jobs[4], jobs[2], jobs[0]]


# --- cancel and delete


def test_a_queued_job_is_cancelled_at_once_and_for_good(service: Service) -> None:
    job = service.submit()
    response = service.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert response.status_code == 202
    assert response.json()["state"] == "cancelled"
    assert service.http.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    problem(service.http.get(f"/v1/jobs/{job['id']}/result"), 409, "no_result")


def test_a_running_job_is_marked_and_never_turns_succeeded(service: Service) -> None:
    job = service.submit()
    claimed = service.claim(job["id"])
    response = service.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert response.status_code == 202
    assert (response.json()["state"], response.json()["cancel_requested"]) == ("running", True)
    service.finish(claimed, np.zeros(3, np.float32))
    assert service.http.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"


def test_a_finished_job_cannot_be_cancelled(service: Service) -> None:
    job = service.finished()
    problem(service.http.post(f"/v1/jobs/{job['id']}/cancel"), 409, "job_already_finished")


def test_only_a_finished_job_is_deleted(service: Service) -> None:
    job = service.submit()
    path = f"/v1/jobs/{job['id']}"
    problem(service.http.delete(path), 409, "job_not_finished")
    service.finish(service.claim(job["id"]), np.zeros(3, np.float32))
    response = service.http.delete(path)
    assert (response.status_code, response.content) == (204, b"")
    problem(service.http.get(path), 404, "job_not_found")
    problem(service.http.delete(path), 404, "job_not_found")
    assert job["id"] not in service.http.get("/v1/jobs?limit=200").text
