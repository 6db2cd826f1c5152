"""Options are checked by name, type and range before anything runs."""

from __future__ import annotations

import pytest

from ihvp.errors import InvalidOption, UnknownMethod, UnknownOption
from ihvp.methods import METHODS, CgOptions, InversionMethod, default_rtol, parse_method, parse_options


def test_every_method_is_described() -> None:
    assert set(METHODS) == set(InversionMethod)


def test_the_seed_methods_keep_their_names() -> None:
    names = {m.name: m.value for m in InversionMethod}
    assert names.items() >= {"Direct": "direct", "Cg": "cg", "Lissa": "lissa", "Arnoldi": "arnoldi"}.items()


def test_an_unknown_method_names_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(
        UnknownMethod, match=r"Given: lisa\. Allowed: direct, cg, minres, lissa, arnoldi.*Did you mean 'lissa'"
    ):
        parse_method("lisa")


def test_an_unknown_option_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(UnknownOption, match=r"'cg' has no option 'rtoll'.*atol, maxiter, .*rtol.*Did you mean 'rtol'"):
        parse_options(InversionMethod.Cg, {"rtoll": 1e-3})


def test_a_method_without_options_says_so() -> None:
    with pytest.raises(UnknownOption, match="no options"):
        parse_options(InversionMethod.Direct, {"rtol": 1e-3})


@pytest.mark.parametrize(
    "options",
    [
        {"rtol": 0.0},
        {"rtol": -1e-3},
        {"rtol": 1.0},
        {"rtol": float("nan")},
        {"rtol": "1e-3"},
        {"maxiter": 0},
        {"maxiter": 2.5},
        {"maxiter": True},
        {"atol": float("inf")},
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption, match=f"Option '{next(iter(options))}' of method 'cg'"):
        parse_options(InversionMethod.Cg, options)


def test_whole_numbers_serve_as_floats() -> None:
    options = parse_options(InversionMethod.Lissa, {"scale": 50, "dampen": 1})
    assert options.model_dump()["scale"] == 50.0


def test_the_service_asks_of_each_dtype_what_it_can_hold() -> None:
    assert default_rtol("float32") == 1e-5
    assert default_rtol("float64") == 1e-8
    assert CgOptions().atol == 0.0
