"""References are read strictly: what is not written as one is refused with how to write it."""

from __future__ import annotations

import pytest

from ihvp.errors import InvalidReference
from ihvp.references import ModelRef, TensorName, parse_digest

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits-mlp", ModelRef("digits-mlp")),
        ("digits-mlp@latest", ModelRef("digits-mlp")),
        ("digits-mlp@12", ModelRef("digits-mlp", 12)),
        ("a.b_c-1@1", ModelRef("a.b_c-1", 1)),
        ("digits-mlp@champion", ModelRef("digits-mlp", alias="champion")),
    ],
)
def test_model_references(text: str, expected: ModelRef) -> None:
    assert ModelRef.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "@1", "Digits", "digits@", "digits@0", "digits@01", "digits@-1", "digits@V1", "a/b", "a b", "x" * 129]
)
def test_what_is_no_model_reference(text: str) -> None:
    with pytest.raises(InvalidReference, match="name@latest"):
        ModelRef.parse(text)


def test_a_reference_prints_as_it_is_written() -> None:
    assert str(ModelRef.parse("m@3")) == "m@3"
    assert str(ModelRef.parse("m")) == "m@latest"


def test_tensor_names() -> None:
    assert TensorName.parse(DIGEST) == TensorName(DIGEST)
    assert TensorName.parse(f"{DIGEST}#0.weight") == TensorName(DIGEST, "0.weight")
    assert str(TensorName.parse(f"{DIGEST}#a#b")) == f"{DIGEST}#a#b"


@pytest.mark.parametrize(
    "text", [DIGEST[:-1], DIGEST.upper(), DIGEST + "0", "md5:00", f"{DIGEST}#", "", "../etc/passwd"]
)
def test_what_is_no_tensor_name(text: str) -> None:
    with pytest.raises(InvalidReference):
        TensorName.parse(text)


def test_a_digest_is_refused_with_the_command_that_prints_one() -> None:
    with pytest.raises(InvalidReference, match="sha256sum"):
        parse_digest("sha256:xyz")
