"""Celery's settings that lose jobs, or hang workers, when they are otherwise: of the worker and of who sends to it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from app.queue import WorkerWaker
from ihvp.messages import SOLVE_TASK
from ihvp.settings import Settings
from workers.broker import make_celery
from workers.celery_app import worker_configuration

DAY_S = 24 * 3600


@pytest.fixture
def worker() -> Celery:
    """As ``celery -A workers.celery_app`` makes it."""
    settings = Settings()
    app = make_celery(settings)
    app.conf.update(worker_configuration(settings))
    return app


@pytest.fixture
def producer() -> Celery:
    """As the API makes it, to send alone."""
    return WorkerWaker(Settings())._celery()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # An early acknowledgement loses the message with its worker; the store's cap ends what could go on for ever.
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        # A long solve must not hold a second message.
        ("worker_prefetch_multiplier", 1),
        ("worker_disable_prefetch", True),
        # A child can be killed and replaced; one a device.
        ("worker_pool", "prefork"),
        ("worker_concurrency", 1),
        # The job store owns the truth.
        ("task_ignore_result", True),
        ("result_backend", None),
        ("task_serializer", "json"),
        ("accept_content", ["json"]),
        ("broker_connection_retry_on_startup", True),
        ("worker_cancel_long_running_tasks_on_connection_loss", False),
    ],
)
def test_a_worker_is_set_as_reliability_needs_it(worker: Celery, name: str, value: Any) -> None:
    assert worker.conf[name] == value


def test_a_warm_shutdown_has_its_time(worker: Celery) -> None:
    assert worker.conf.worker_soft_shutdown_timeout > 0


def test_children_are_replaced_against_leaks_and_never_for_what_they_keep(worker: Celery) -> None:
    settings = Settings()
    assert worker.conf.worker_max_tasks_per_child >= 10_000
    assert worker.conf.worker_max_memory_per_child * 1024 > settings.cache_budget + settings.memory_budget


def test_both_ends_speak_to_the_broker_alike(worker: Celery, producer: Celery) -> None:
    """The shortest visibility timeout on a broker wins, whoever has it."""
    for app in (worker, producer):
        options = app.conf.broker_transport_options
        assert options["visibility_timeout"] >= 7 * DAY_S
        assert options["socket_keepalive"] is True
        assert 0 < options["health_check_interval"] <= 30
        assert 0 < options["socket_timeout"] <= 10
        assert 0 < options["socket_connect_timeout"] <= 10
        assert options["retry_on_timeout"] is False
        assert app.conf.task_ignore_result is True
        assert app.conf.broker_url == Settings().resolved_broker_url
        assert app.conf.task_serializer == "json"
    shared = {"visibility_timeout", "socket_keepalive", "health_check_interval", "retry_on_timeout"}
    mine, theirs = (app.conf.broker_transport_options for app in (worker, producer))
    assert {name: mine[name] for name in shared} == {name: theirs[name] for name in shared}


def test_a_request_does_not_wait_for_the_broker_as_a_worker_may(worker: Celery, producer: Celery) -> None:
    assert producer.conf.broker_connection_timeout <= 1.0
    assert producer.conf.broker_transport_options["socket_timeout"] <= 1.0


def test_the_settings_are_those_of_the_connection(worker: Celery, producer: Celery) -> None:
    """Not only in the configuration: kombu has names of its own for some."""
    for app in (worker, producer):
        channel = app.connection_for_write().transport.Channel
        options = app.connection_for_write().transport_options
        known = set(channel.from_transport_options)
        used = {name for name in options if name in known or any(name == each[0] for each in known)}
        assert {"visibility_timeout", "socket_timeout", "socket_connect_timeout", "socket_keepalive"} <= used
        assert {"health_check_interval", "retry_on_timeout"} <= used


def test_the_task_is_the_one_that_is_sent() -> None:
    import workers.celery_app

    assert SOLVE_TASK in workers.celery_app.app.tasks
