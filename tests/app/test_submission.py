"""Submitting safely: a key that makes a job once, an answer that waits for the end, and a queue that is full."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service

KEY = "Idempotency-Key"


class TestIdempotencyKey:
    def test_the_same_request_again_answers_with_the_job_it_made(self, service: Service) -> None:
        body = service.submission(tags={"run": "once"})
        first = service.http.post("/v1/jobs", json=body, headers={KEY: "again"})
        assert first.status_code == 202
        assert "Idempotent-Replayed" not in first.headers
        again = service.http.post("/v1/jobs", json=body, headers={KEY: "again"})
        assert again.status_code == 200
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers["Location"] == first.headers["Location"]
        assert again.json()["id"] == first.json()["id"]
        listed = service.http.get("/v1/jobs", params={"tag": "run:once"}).json()["jobs"]
        assert [job["id"] for job in listed] == [first.json()["id"]]

    def test_the_order_of_fields_and_what_a_default_says_anyway_make_no_other_request(self, service: Service) -> None:
        body = service.submission(tags={"a": "1", "b": "2"})
        first = service.http.post("/v1/jobs", json=body, headers={KEY: "order"}).json()
        turned = {name: body[name] for name in reversed(body)} | {"tags": {"b": "2", "a": "1"}, "priority": "normal"}
        assert service.http.post("/v1/jobs", json=turned, headers={KEY: "order"}).json()["id"] == first["id"]

    def test_another_body_under_the_key_is_refused(self, service: Service) -> None:
        made = service.http.post("/v1/jobs", json=service.submission(), headers={KEY: "other"}).json()
        other = service.submission(hessian_perturbation=0.75)
        refused = service.http.post("/v1/jobs", json=other, headers={KEY: "other"})
        assert refused.status_code == 422
        problem = refused.json()
        assert problem["code"] == "idempotency_mismatch"
        assert made["id"] in problem["given"]
        assert "new key" in problem["hint"]

    def test_what_was_accepted_is_not_refused_when_its_model_has_changed(self, service: Service) -> None:
        # The reference resolves to another version by then; the request is the same.
        service.register("moving")
        body = service.submission(model="moving@latest")
        first = service.http.post("/v1/jobs", json=body, headers={KEY: "moving"}).json()
        service.register("moving", dtype="float64")
        again = service.http.post("/v1/jobs", json=body, headers={KEY: "moving"})
        assert again.json()["id"] == first["id"]
        assert again.json()["model"]["reference"] == "moving@1"

    def test_many_at_once_make_one_job(self, service: Service) -> None:
        body = service.submission(tags={"run": "many"})

        def submit(_: int) -> tuple[int, str]:
            answer = service.http.post("/v1/jobs", json=body, headers={KEY: "many"})
            return answer.status_code, answer.json()["id"]

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(submit, range(24)))
        assert len({job_id for _, job_id in answers}) == 1
        assert sorted(status for status, _ in answers) == [200] * 23 + [202]

    def test_a_refused_request_leaves_the_key_unused(self, service: Service) -> None:
        wrong = service.submission(rhs={"inline": [1.0]})
        assert service.http.post("/v1/jobs", json=wrong, headers={KEY: "unused"}).status_code == 422
        right = service.http.post("/v1/jobs", json=service.submission(), headers={KEY: "unused"})
        assert right.status_code == 202

    @pytest.mark.parametrize("key", ["", "two words", "x" * 256])
    def test_what_is_no_key_is_refused(self, service: Service, key: str) -> None:
        refused = service.http.post("/v1/jobs", json=service.submission(), headers={KEY: key})
        assert refused.status_code == 422
        assert refused.json()["code"] == "invalid_header"
        assert "UUID" in refused.json()["hint"]

    def test_the_key_of_a_deleted_job_makes_no_other(self, service: Service) -> None:
        body = service.submission()
        made = service.http.post("/v1/jobs", json=body, headers={KEY: "deleted"}).json()
        service.http.post(f"/v1/jobs/{made['id']}/cancel")
        assert service.http.delete(f"/v1/jobs/{made['id']}").status_code == 204
        again = service.http.post("/v1/jobs", json=body, headers={KEY: "deleted"})
        assert (again.status_code, again.json()["code"]) == (404, "job_not_found")


class TestPreferWait:
    def test_the_answer_is_held_until_the_job_has_ended(self, service: Service) -> None:
        ended: list[str] = []

        def end_it() -> None:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                waiting = service.http.get("/v1/jobs", params={"tag": "run:held", "state": "queued"}).json()["jobs"]
                if waiting:
                    ended.append(waiting[0]["id"])
                    service.http.post(f"/v1/jobs/{waiting[0]['id']}/cancel")
                    return
                time.sleep(0.05)

        thread = threading.Thread(target=end_it)
        thread.start()
        body = service.submission(tags={"run": "held"})
        answer = service.http.post("/v1/jobs", json=body, headers={"Prefer": "respond-async, wait=10"})
        thread.join()
        assert answer.status_code == 200
        assert answer.headers["Preference-Applied"] == "wait=10"
        assert answer.json()["id"] == ended[0]
        assert answer.json()["state"] == "cancelled"
        seen = service.http.get(f"/v1/jobs/{ended[0]}", headers={"If-None-Match": answer.headers["ETag"]})
        assert seen.status_code == 304

    def test_after_the_time_it_is_answered_as_it_stands(self, service: Service) -> None:
        began = time.monotonic()
        answer = service.http.post("/v1/jobs", json=service.submission(), headers={"Prefer": "wait=1"})
        assert 1.0 <= time.monotonic() - began < 5.0
        assert answer.status_code == 202
        assert answer.json()["state"] == "queued"
        assert answer.headers["Location"].endswith(answer.json()["id"])

    def test_the_wait_is_capped_and_says_so(self, make_service: MakeService) -> None:
        service = make_service(max_wait_s=0.5)
        service.register("line")
        answer = service.http.post("/v1/jobs", json=service.submission(), headers={"Prefer": "wait=3600"})
        assert answer.headers["Preference-Applied"] == "wait=0.5"

    @pytest.mark.parametrize("prefer", ["respond-async", "wait=soon", "wait", "x=1; wait=3"])
    def test_a_preference_that_says_nothing_of_a_wait_is_left_aside(self, service: Service, prefer: str) -> None:
        answer = service.http.post("/v1/jobs", json=service.submission(), headers={"Prefer": prefer})
        assert answer.status_code == 202
        assert "Preference-Applied" not in answer.headers


class TestFullQueue:
    def test_a_full_queue_answers_429_and_when_to_come_back(self, make_service: MakeService) -> None:
        service = make_service(max_queue=2)
        service.register("line")
        made = [service.http.post("/v1/jobs", json=service.submission(), headers={KEY: str(i)}) for i in range(2)]
        assert [answer.status_code for answer in made] == [202, 202]
        refused = service.http.post("/v1/jobs", json=service.submission(), headers={KEY: "2"})
        assert refused.status_code == 429
        assert refused.json()["code"] == "queue_full"
        assert refused.json()["allowed"] == "2 (IHVP_MAX_QUEUE)"
        assert int(refused.headers["Retry-After"]) >= 1
        # What was accepted is still answered, and the key of what was refused is free once there is room.
        assert service.http.post("/v1/jobs", json=service.submission(), headers={KEY: "0"}).status_code == 200
        service.http.post(f"/v1/jobs/{made[0].json()['id']}/cancel")
        assert service.http.post("/v1/jobs", json=service.submission(), headers={KEY: "2"}).status_code == 202


def test_the_dry_run_makes_nothing_under_a_key(service: Service) -> None:
    body: dict[str, Any] = service.submission()
    predicted = service.http.post("/v1/jobs", params={"dry_run": "true"}, json=body, headers={KEY: "dry"})
    assert predicted.status_code == 200
    assert predicted.json()["predictions"]
    assert service.http.post("/v1/jobs", json=body, headers={KEY: "dry"}).status_code == 202
