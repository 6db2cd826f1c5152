"""What λ may be: a number, the word "auto", or numbers by parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from ihvp.errors import InvalidOption, UnknownParameters

__all__ = [
    "SINGULAR",
    "Perturbation",
    "by_name",
    "check_patterns",
    "check_positive",
    "check_scale",
    "describe",
    "least",
]

MOST_NAMED = 5

_FACTORS: Final = "Kronecker factors are singular where inputs or gradients do not span their spaces"
SINGULAR: Final = {
    "nystrom": "b is divided by λ outside the sketch",
    "kfac": _FACTORS,
    "ekfac": _FACTORS,
    "datainf": "the outer product of one gradient is singular",
    "woodbury": "b is divided by λ outside the eigenvectors",
}
"""What has no inverse without λ, and why: methods, kfac and ekfac as preconditioners too, and an option of arnoldi."""

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


def by_name(perturbation: float | Mapping[str, float], names: Sequence[str]) -> list[float]:
    """λ of each parameter: by patterns, that of the last which matches; see :func:`check_patterns`."""
    if not isinstance(perturbation, Mapping):
        return [perturbation] * len(names)
    patterns = perturbation.items()
    return [[value for pattern, value in patterns if fnmatchcase(name, pattern)][-1] for name in names]


def check_positive(what: str, perturbation: float | Mapping[str, float], of_parameters: Sequence[float]) -> None:
    """Refuses λ = 0 where it would leave something singular.

    Args:
        what: A key of :data:`SINGULAR`.
        perturbation: λ as it was given.
        of_parameters: λ of each parameter.

    Raises:
        InvalidOption: λ is 0 for some parameter.
    """
    if not min(of_parameters) > 0:
        raise InvalidOption(
            f"{what} needs λ > 0: {SINGULAR[what]}.",
            given=f"hessian_perturbation={describe(perturbation)}",
            allowed='hessian_perturbation > 0 for every parameter, or "auto"',
            hint='"auto" chooses one; for λ = 0 use direct, or minres or cg without kfac and ekfac.',
        )


def check_scale(scale: float | None, dampen: float, damping: float) -> None:
    """Checks what lissa divides by against what is known before any work: λ itself is an eigenvalue of H + λI or more.

    A term multiplies what is left by 1 − dampen − (H + λI) / scale, which must lie between -1 and 1.

    Args:
        scale: What H + λI is divided by; None where it is to be found.
        dampen: Adds dampen · scale to λ.
        damping: The largest λ of a parameter.

    Raises:
        InvalidOption: The series would diverge wherever H has no negative eigenvalue.
    """
    if dampen >= 2:
        raise InvalidOption(
            "Option 'dampen' of method 'lissa' makes the series diverge: each term changes sign and grows.",
            given=f"{dampen:g}",
            allowed="0 ≤ dampen < 2; 0 solves the system that was asked for",
        )
    if scale is not None and dampen + damping / scale >= 2:
        needed = damping / (2 - dampen)
        raise InvalidOption(
            "Option 'scale' of method 'lissa' makes the series diverge: it is too small for λ alone.",
            given=f"scale={scale:g} with λ={damping:g}" + (f" and dampen={dampen:g}" if dampen else ""),
            allowed=f"more than {needed:g}, and more than the largest eigenvalue of every batch's H + λI",
            hint="Leave scale out (in the library: scale=None), and it is found by power iterations.",
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
