"""What λ may be: a number, the word "auto", or numbers by parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ihvp.errors import InvalidOption, UnknownParameters

__all__ = ["Perturbation", "check_patterns", "describe", "least"]

MOST_NAMED = 5

Lambda = Annotated[float, Field(strict=True, ge=0.0, allow_inf_nan=False)]
Pattern = Annotated[str, Field(min_length=1, max_length=512)]


def _kind(value: Any) -> str:
    return "word" if isinstance(value, str) else "mapping" if isinstance(value, Mapping) else "number"


# Told apart by what was sent, so that a fault names the one form that was meant and not all three.
Perturbation = Annotated[
    Annotated[Lambda, Tag("number")]
    | Annotated[Literal["auto"], Tag("word")]
    | Annotated[dict[Pattern, Lambda], Field(min_length=1, max_length=256), Tag("mapping")],
    Discriminator(_kind),
]


def check_patterns(patterns: Mapping[str, float], names: Sequence[str]) -> None:
    """Checks λ by parameter against a model's parameters; of several patterns that match one, the last counts.

    Raises:
        UnknownParameters: A pattern matches no parameter.
        InvalidOption: No pattern matches a parameter.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownParameters(
                "A pattern in 'hessian_perturbation' matches no parameter.", given=pattern, allowed=_listed(names)
            )
    bare = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if bare:
        raise InvalidOption(
            "'hessian_perturbation' must give a λ to every parameter.",
            given=f"no pattern for {_listed(bare)}",
            hint="Put the pattern '*' first: of several that match, the last one counts.",
        )


def least(perturbation: float | str | Mapping[str, float]) -> float | None:
    """The smallest λ anywhere, which decides the conditioning; None where the service is to choose it."""
    if isinstance(perturbation, Mapping):
        return min(perturbation.values())
    return None if isinstance(perturbation, str) else perturbation


def describe(perturbation: float | str | Mapping[str, float]) -> str:
    """λ as people read it: ``0.01``, ``auto``, or ``*=0.01, 2.*=0.1``."""
    if isinstance(perturbation, Mapping):
        return ", ".join(f"{pattern}={value:g}" for pattern, value in perturbation.items())
    return perturbation if isinstance(perturbation, str) else f"{perturbation:g}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
