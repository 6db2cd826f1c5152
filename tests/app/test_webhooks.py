"""Webhooks over HTTP: what a submission may ask for, what is told of deliveries, and that secrets are shown once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ihvp.webhooks.record import DeliveryState, DeliveryTry
from ihvp.webhooks.redis_store import RedisWebhookStore
from tests.app.conftest import MakeService
from tests.app.driver import Service, problem

HOOK = {"url": "https://platform.example/hooks?key=1", "events": ["job.finished"]}


@pytest.fixture
def hooked(make_service: MakeService) -> Service:
    """A service with a secret, and a network of its own that webhooks may reach."""
    service = make_service(webhook_allowed_hosts=("10.2.0.0/16", "hooks.internal"))
    assert service.http.post("/v1/webhooks/secrets").status_code == 201
    return service


def refused(service: Service, webhook: Any, code: str, **query: Any) -> dict[str, Any]:
    response = service.http.post("/v1/jobs", json=service.submission(webhook=webhook), params=query)
    return problem(response, 422, code)


def take(service: Service, state: DeliveryState) -> str:
    """A sender's part: takes the one delivery that is due, and ends it so."""
    store = RedisWebhookStore.from_settings(service.settings)
    (sent,) = store.claim(lease_s=60, most=10, most_of_a_lane=10, most_tries=3)
    done = DeliveryTry(attempt=sent.delivery.attempt, at=datetime.now(UTC), status=503, seconds=0.1)
    assert store.settle(sent.delivery.id, done, state=state)
    store.close()
    return sent.delivery.id


class TestSubmitting:
    def test_a_job_shows_its_webhook_and_where_its_deliveries_are(self, hooked: Service) -> None:
        job = hooked.submit(webhook=HOOK)
        assert job["webhook"] == HOOK
        assert job["links"]["deliveries"] == f"/v1/webhooks/deliveries?job={job['id']}"
        assert hooked.http.get(job["links"]["deliveries"]).json() == {"deliveries": [], "next": None}
        assert "webhook" in hooked.http.get(f"/v1/jobs/{job['id']}").json()

    def test_the_end_is_told_unless_something_else_is_asked_for(self, hooked: Service) -> None:
        assert hooked.submit(webhook={"url": HOOK["url"]})["webhook"]["events"] == ["job.finished"]
        twice = {**HOOK, "events": ["job.started", "job.failed", "job.started"]}
        assert hooked.submit(webhook=twice)["webhook"]["events"] == ["job.started", "job.failed"]

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://platform.example/",
            "javascript:alert(1)",
            "/hooks",
            "https://",
            "https:///path",
            "https://user:secret-word@platform.example/",
            "https://platform.example/#part",
            "https://platform.example:0/",
            "https://platform.example:65536/",
            "https://platform.example:/",
            "https://plat form.example/",
            "https://platform..example/",
            "https://pl\u00e4tform.example/",
            "https://platform.example/\r\nX-Injected: 1",
            f"https://platform.example/{'x' * 2048}",
        ],
    )
    def test_a_url_that_no_delivery_can_go_to_is_refused(self, hooked: Service, url: str) -> None:
        said = refused(hooked, {"url": url}, "invalid_webhook")
        assert "https://<host>" in said["detail"]
        # What is sent back and logged holds no password.
        assert "secret-word" not in said["detail"]

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "10.3.0.1"],
    )
    def test_an_address_that_is_not_public_is_refused(self, hooked: Service, host: str) -> None:
        said = refused(hooked, {"url": f"https://{host}/hook"}, "address_not_allowed")
        assert "IHVP_WEBHOOK_ALLOWED_HOSTS" in said["hint"]
        refused(hooked, {"url": f"https://{host}/hook"}, "address_not_allowed", dry_run=True)

    def test_http_is_for_hosts_that_the_operator_lists(self, hooked: Service) -> None:
        refused(hooked, {"url": "http://platform.example/hook"}, "invalid_webhook")
        for url in ("http://10.2.9.9:8080/hook", "http://hooks.internal/hook", "https://HOOKS.internal./hook"):
            assert hooked.submit(webhook={"url": url})["webhook"]["url"] == url

    @pytest.mark.parametrize(
        "webhook",
        [
            {},
            {**HOOK, "events": []},
            {**HOOK, "events": ["job.vanished"]},
            {**HOOK, "secret": "mine"},
            "https://platform.example/",
        ],
    )
    def test_what_is_no_webhook_is_refused(self, hooked: Service, webhook: Any) -> None:
        refused(hooked, webhook, "validation_error")

    def test_without_a_secret_it_says_how_to_make_one(self, make_service: MakeService) -> None:
        said = refused(make_service(), HOOK, "webhook_secret_missing")
        assert "ihvp webhooks secret create" in said["hint"]


class TestDeliveries:
    def test_they_are_listed_looked_at_and_replayed(self, hooked: Service) -> None:
        first, second = (hooked.submit(webhook=HOOK) for _ in range(2))
        hooked.http.post(f"/v1/jobs/{first['id']}/cancel")
        delivery_id = take(hooked, DeliveryState.Dead)
        hooked.http.post(f"/v1/jobs/{second['id']}/cancel")
        page = hooked.http.get("/v1/webhooks/deliveries", params={"limit": 1}).json()
        assert [each["job_id"] for each in page["deliveries"]] == [second["id"]]
        page = hooked.http.get(page["next"]).json()
        assert [each["job_id"] for each in page["deliveries"]] == [first["id"]]
        assert page["next"] is None
        (dead,) = hooked.http.get("/v1/webhooks/deliveries?state=dead").json()["deliveries"]
        assert dead["id"] == delivery_id
        assert (dead["type"], dead["url"], dead["attempts"]) == ("job.finished", HOOK["url"], 1)
        assert dead["tries"][0]["status"] == 503
        assert hooked.http.get(dead["links"]["self"]).json() == dead
        replayed = hooked.http.post(dead["links"]["replay"])
        assert replayed.status_code == 202
        assert replayed.json()["state"] == "pending"
        assert hooked.http.get("/v1/webhooks/deliveries?state=dead").json()["deliveries"] == []

    def test_what_is_being_sent_is_left_alone(self, hooked: Service) -> None:
        job = hooked.submit(webhook=HOOK)
        hooked.http.post(f"/v1/jobs/{job['id']}/cancel")
        store = RedisWebhookStore.from_settings(hooked.settings)
        (sent,) = store.claim(lease_s=60, most=10, most_of_a_lane=10, most_tries=3)
        store.close()
        problem(hooked.http.post(f"/v1/webhooks/deliveries/{sent.delivery.id}/replay"), 409, "delivery_under_way")

    @pytest.mark.parametrize("name", ["msg_1", "msg_01KAT5ZXQ6V5M9W3E8H2R7N4CD_1767607200120-0_finished", "*"])
    def test_what_is_not_there_is_404(self, service: Service, name: str) -> None:
        problem(service.http.get(f"/v1/webhooks/deliveries/{name}"), 404, "delivery_not_found")
        problem(service.http.post(f"/v1/webhooks/deliveries/{name}/replay"), 404, "delivery_not_found")

    def test_unknown_filters_are_errors(self, service: Service) -> None:
        for query in ("state=lost", "job=1", "limit=0", "limit=201", "x=1", "cursor=a"):
            problem(service.http.get(f"/v1/webhooks/deliveries?{query}"), 422, "validation_error")


class TestSecrets:
    def test_a_secret_is_shown_by_the_answer_that_made_it_alone(self, make_service: MakeService) -> None:
        service = make_service()
        assert service.http.get("/v1/webhooks/secrets").json() == {"secrets": []}
        problem(service.http.post("/v1/webhooks/secrets/rotate"), 422, "webhook_secret_missing")
        made = service.http.post("/v1/webhooks/secrets").json()
        assert made["secret"].startswith("whsec_")
        problem(service.http.post("/v1/webhooks/secrets"), 409, "webhook_secret_exists")
        new, old = service.http.post("/v1/webhooks/secrets/rotate", params={"old_valid_s": 60}).json()["secrets"]
        assert new["secret"] not in (None, made["secret"])
        assert (old["id"], old["secret"]) == (made["id"], None)
        assert old["valid_until"] is not None
        listed = service.http.get("/v1/webhooks/secrets").text
        assert made["secret"] not in listed
        assert new["secret"] not in listed
        (only,) = service.http.post("/v1/webhooks/secrets/rotate", params={"old_valid_s": 0}).json()["secrets"]
        assert only["valid_until"] is None
        for value in ("-1", "1e9", "nan", "soon"):
            answer = service.http.post("/v1/webhooks/secrets/rotate", params={"old_valid_s": value})
            problem(answer, 422, "validation_error")


def test_the_outbox_is_measured(hooked: Service) -> None:
    for _ in range(2):
        job = hooked.submit(webhook=HOOK)
        hooked.http.post(f"/v1/jobs/{job['id']}/cancel")
        if not _:
            take(hooked, DeliveryState.Dead)
    text = hooked.http.get("/metrics").text
    assert 'ihvp_webhook_tries_total{outcome="dead"} 1.0' in text
    assert 'ihvp_webhook_tries_total{outcome="delivered"} 0.0' in text
    assert "ihvp_webhook_due 1.0" in text
    assert "ihvp_webhook_dead 1.0" in text
    assert "ihvp_webhook_oldest_due_seconds " in text
