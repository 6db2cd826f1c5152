"""What a worker saw a solve cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.methods import Curvature, InversionMethod

__all__ = ["ERROR_BOUNDS", "Known", "Observation", "error_bucket"]

ERROR_BOUNDS: Final = (-2.0, -1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0, 2.0, math.inf)
"""Upper bounds of the buckets in which ln(actual / predicted) seconds are counted; ±0.1 is a tenth off."""


class Observation(BaseModel):
    """One finished solve. It is only ever an estimate of the next one, so fields may come and go with versions."""

    model_config = ConfigDict(frozen=True)

    model: str = Field(description="Digest of the model.")
    curvature: Curvature
    method: InversionMethod
    preconditioner: str | None = None
    rank: int | None = Field(None, description="Eigenpairs of the method or its preconditioner, where one was asked.")
    architecture: str
    dtype: str
    num_params: int
    num_points: int
    columns: int = Field(description="Right-hand sides.")
    damping: float | None = Field(description="The smallest λ that was solved with.")
    rtol: float | None = None
    seconds: float = Field(description="From reading b to certified solutions.")
    load_s: float = Field(0.0, description="Loading the model; next to nothing where it was warm.")
    seconds_per_product: float | None = Field(
        description="One vector, all points; None where that cannot be told apart from other work."
    )
    products: float = Field(description="Vectors multiplied, in passes over all points.")
    iterations: int = Field(description="Of the right-hand side that took most.")
    reached: bool = Field(description="Whether it ended because it was done: only then do its iterations count.")
    kept_bytes: int | None = Field(None, description="What the problem keeps for later solves.")


@dataclass(frozen=True)
class Known:
    """What has been observed that tells about a model.

    Attributes:
        here: On this model with this curvature, newest first.
        recent: On any model, newest first.
    """

    here: Sequence[Observation] = field(default_factory=tuple)
    recent: Sequence[Observation] = field(default_factory=tuple)


def error_bucket(log_error: float) -> int:
    """The bucket of ``ERROR_BOUNDS`` that a prediction's error falls into."""
    return next(i for i, bound in enumerate(ERROR_BOUNDS) if log_error <= bound)
