"""The error tree: what its docstring draws is what there is, and a message carries its three parts."""

from __future__ import annotations

import inspect
import re

import pytest

from ihvp import errors
from ihvp.errors import IhvpError, InvalidInput, RhsShapeMismatch, UnknownOption


def every_error() -> list[type[IhvpError]]:
    return [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, IhvpError) and member.__module__.startswith(f"{errors.__name__}.")
    ]


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Name → (code, parent) as the module's docstring draws them."""
    found: dict[str, tuple[str, str]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?: \(\w+\))?\s+([a-z_]+)$", line)
        if match:
            depth = len(match[1]) // 4
            del parents[depth:]
            found[match[2]] = (match[3], parents[-1] if parents else "Exception")
            parents.append(match[2])
    return found


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {e.__name__: (e.code, e.__bases__[0].__name__) for e in every_error()}
    assert drawn_tree() == real


def test_codes_are_unique() -> None:
    codes = [e.code for e in every_error()]
    assert len(codes) == len(set(codes))


def test_a_message_says_what_was_given_what_is_allowed_and_what_to_try() -> None:
    error = RhsShapeMismatch("Wrong length.", given=3, allowed="4 numbers", hint="See the layout.")
    assert str(error) == "Wrong length. Given: 3. Allowed: 4 numbers. See the layout."
    assert error.as_dict() == {
        "code": "rhs_shape_mismatch",
        "message": "Wrong length.",
        "given": 3,
        "allowed": "4 numbers",
        "hint": "See the layout.",
    }


def test_parts_that_were_not_said_do_not_show() -> None:
    error = InvalidInput("No.")
    assert str(error) == "No."
    assert set(error.as_dict()) == {"code", "message"}


@pytest.mark.parametrize(
    ("error", "builtin"), [(InvalidInput, ValueError), (UnknownOption, TypeError), (errors.NotFound, LookupError)]
)
def test_library_users_catch_the_builtin_they_expect(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)
