"""An error crosses HTTP unchanged: what the API raises is what the client raises."""

from __future__ import annotations

import inspect

import httpx
import pytest

from app.errors import problem_response, status_of
from ihvp import errors
from ihvp.client.faults import error_from_response
from ihvp.errors import (
    IhvpError,
    InvalidInput,
    NotFound,
    RhsShapeMismatch,
    TooManyRequests,
    Unavailable,
    ValidationFailed,
)

REQUEST = httpx.Request("GET", "http://127.0.0.1:8000/v1/jobs")


def every_error() -> list[type[IhvpError]]:
    return [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, IhvpError) and member.__module__.startswith(f"{errors.__name__}.")
    ]


def over_http(error: IhvpError, **extra: object) -> httpx.Response:
    sent = problem_response(error, **extra)  # type: ignore[arg-type]
    return httpx.Response(sent.status_code, headers=dict(sent.headers), content=sent.body, request=REQUEST)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_each_code_comes_back_as_its_class_with_all_its_parts(kind: type[IhvpError]) -> None:
    sent = kind("It is wrong.", given=3, allowed="4", hint="Try 4.")
    received = error_from_response(over_http(sent))
    assert type(received) is kind
    assert received.as_dict() == sent.as_dict()
    assert str(received) == str(sent)


def test_a_caught_base_class_catches_its_children() -> None:
    with pytest.raises(ValueError, match=r"Wrong length\. Given: 3"):
        raise error_from_response(over_http(RhsShapeMismatch("Wrong length.", given=3)))


def test_validation_errors_keep_one_note_a_field() -> None:
    fields = [{"loc": ["body", "rhs"], "message": "Field required"}, {"loc": ["body", "model"], "message": "No"}]
    received = error_from_response(over_http(ValidationFailed("body.rhs: Field required."), errors=fields))
    assert received.__notes__ == ["body.rhs: Field required", "body.model: No"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(502, Unavailable), (504, Unavailable), (404, NotFound), (400, InvalidInput), (500, IhvpError)],
)
def test_a_page_that_is_not_ours_becomes_the_nearest_error(status: int, kind: type[IhvpError]) -> None:
    page = httpx.Response(status, text="<h1>proxy says no</h1>", request=REQUEST)
    received = error_from_response(page)
    assert type(received) is kind
    assert f"answered {status}: <h1>proxy says no</h1>" in str(received)


def test_a_code_from_a_newer_service_falls_back_to_its_status() -> None:
    problem = {"code": "not_known_yet", "detail": "Too many jobs."}
    response = httpx.Response(429, json=problem, headers={"content-type": "application/problem+json"}, request=REQUEST)
    received = error_from_response(response)
    assert type(received) is TooManyRequests
    assert str(received) == "Too many jobs."


def test_every_status_of_the_api_is_an_error_for_the_client() -> None:
    assert all(status_of(kind) >= 400 for kind in every_error())
