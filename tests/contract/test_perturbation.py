"""λ as a number, "auto", or numbers by parameter: read, checked, and still read as earlier versions stored it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ihvp.errors import InvalidOption, UnknownParameters
from ihvp.jobs.submission import JobRequest
from ihvp.methods import Curvature
from ihvp.perturbation import Perturbation, check_patterns, describe, least
from tests.store.samples import job_request

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
READER: TypeAdapter[Any] = TypeAdapter(Perturbation)


@pytest.mark.parametrize(
    ("value", "smallest", "text"),
    [(0.01, 0.01, "0.01"), (3, 3.0, "3"), ("auto", None, "auto"), ({"*": 0.5, "2.*": 0.1}, 0.1, "*=0.5, 2.*=0.1")],
)
def test_every_form_is_read_and_survives_json(value: Any, smallest: float | None, text: str) -> None:
    read = READER.validate_python(value)
    assert READER.validate_json(READER.dump_json(read)) == read == value
    assert least(read) == smallest
    assert describe(read) == text


@pytest.mark.parametrize("value", [-1.0, "0.1", "automatic", True, None, {}, {"*": -1.0}, {"*": "auto"}, {"": 1.0}])
def test_anything_else_is_refused_with_one_fault(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        READER.validate_python(value)
    assert caught.value.error_count() == 1


def test_patterns_keep_their_order() -> None:
    text = '{"*": 1.0, "b": 2.0, "a": 3.0}'
    assert list(READER.validate_json(text)) == ["*", "b", "a"]
    assert json.loads(READER.dump_json(READER.validate_json(text))) == json.loads(text)


def test_every_pattern_must_match_and_every_parameter_be_matched() -> None:
    check_patterns({"*": 0.1, "2.*": 1.0}, NAMES)
    with pytest.raises(UnknownParameters, match=r"Given: 4\.\*\. Allowed: 0\.weight, 0\.bias"):
        check_patterns({"*": 0.1, "4.*": 1.0}, NAMES)
    with pytest.raises(InvalidOption, match=r"no pattern for 2\.weight, 2\.bias.*'\*' first"):
        check_patterns({"0.*": 0.1}, NAMES)


def test_a_job_that_an_earlier_version_stored_is_read() -> None:
    stored = json.loads(job_request().model_dump_json())
    assert (stored["hessian_perturbation"], stored["curvature"]) == (0.1, "hessian")
    read = JobRequest.model_validate_json(json.dumps(stored))
    assert read.hessian_perturbation == 0.1
    assert read.curvature is Curvature.Hessian
