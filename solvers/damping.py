"""Λ, what is added to H: one λ, or one for each parameter by patterns over their names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ihvp.errors import InvalidOption
from ihvp.perturbation import by_name, check_patterns, check_positive, describe

__all__ = ["Damping", "Perturbation"]

Perturbation = float | Mapping[str, float] | Literal["auto"]
"""What a caller may give as ``hessian_perturbation``."""


@dataclass(frozen=True)
class Damping:
    """A diagonal matrix with one λ for each parameter tensor.

    Attributes:
        perturbation: λ where it is the same everywhere, else by pattern; JSON-ready.
        of_parameters: λ of each trainable parameter, in their order.
    """

    perturbation: float | dict[str, float]
    of_parameters: tuple[float, ...]

    @classmethod
    def of(cls, perturbation: Any, names: Sequence[str]) -> Damping:
        """What a caller gave, checked.

        Args:
            perturbation: λ, or a mapping of shell patterns to λ, of which the last that matches a name counts.
            names: The trainable parameters.

        Raises:
            InvalidOption: A λ is no number, not finite, or negative; or a parameter gets none.
            UnknownParameters: A pattern matches no parameter.
        """
        if not isinstance(perturbation, Mapping):
            value = _checked(perturbation)
            return cls(value, (value,) * len(names))
        patterns = {str(pattern): _checked(value, pattern) for pattern, value in perturbation.items()}
        check_patterns(patterns, names)
        values = tuple(by_name(patterns, names))
        return cls(values[0] if len(set(values)) == 1 else patterns, values)

    @property
    def scalar(self) -> float | None:
        """The λ of all parameters, if they share one."""
        return self.perturbation if isinstance(self.perturbation, float) else None

    def one_for(self, method: str) -> float:
        """The λ that all parameters share, for a method that knows H + λI only.

        Raises:
            InvalidOption: λ differs between parameters.
        """
        if self.scalar is None:
            raise InvalidOption(
                f"Method {method!r} needs one λ for all parameters.",
                given=f"hessian_perturbation={describe(self.perturbation)}",
                allowed="a number",
                hint="cg, minres, lissa and direct take λ by parameter, and so do kfac, ekfac and datainf.",
            )
        return self.scalar

    def require_positive(self, what: str) -> None:
        """Refuses λ = 0; see :func:`ihvp.perturbation.check_positive`."""
        check_positive(what, self.perturbation, self.of_parameters)

    @property
    def largest(self) -> float:
        """The largest λ: H + Λ lies below H with this one everywhere."""
        return max(self.of_parameters)

    def diagonal(self, parameters: Sequence[Tensor]) -> float | Tensor:
        """The diagonal of Λ ``[p]`` in float64, or the one number on it.

        Args:
            parameters: The trainable parameters.
        """
        if self.scalar is not None:
            return self.scalar
        return torch.cat(
            [
                torch.full((p.numel(),), value, dtype=torch.float64, device=p.device)
                for p, value in zip(parameters, self.of_parameters, strict=True)
            ]
        )

    def raised(self, by: float) -> float | dict[str, float]:
        """The perturbation with as much more on every parameter; JSON-ready."""
        if isinstance(self.perturbation, float):
            return self.perturbation + by
        return {pattern: value + by for pattern, value in self.perturbation.items()}


def _checked(value: Any, pattern: Any = None) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not usable or not math.isfinite(value) or value < 0:
        where = "" if pattern is None else f" for {pattern!r}"
        raise InvalidOption(
            f"hessian_perturbation (λ){where} must be a finite number that is not negative.",
            given=repr(value)[:80],
            allowed="λ ≥ 0, auto, or a mapping of patterns over parameter names to such numbers",
        )
    return float(value)
