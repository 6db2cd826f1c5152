"""Data points as a caller refers to them: inputs, targets, which rows, and how much each counts."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.references import TensorRef

__all__ = ["MOST_INLINE_ROWS", "DataSpec", "PointsSpec"]

MOST_INLINE_ROWS: Final = 100_000
"""More row numbers belong in a file: a job carries its spec with it wherever it goes."""

InputName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
RowNumber = Annotated[int, Field(ge=0, lt=2**48, strict=True)]
RowNumbers = Annotated[list[RowNumber], Field(min_length=1, max_length=MOST_INLINE_ROWS, fail_fast=True)]


class PointsSpec(BaseModel):
    """Points: one row each in every file that is referred to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: TensorRef | Annotated[dict[InputName, TensorRef], Field(min_length=1, max_length=64)] = Field(
        description="[n, ...]; or several such tensors by the names of the arguments of the model's forward."
    )
    targets: TensorRef
    index: RowNumbers | TensorRef | None = Field(
        None,
        description="The rows that are used, counted from 0, in the order in which they become points: a list, or "
        "whole numbers [m] in a file. A row named twice is two points. Left out: all rows.",
    )

    def named_inputs(self) -> dict[str, str]:
        """The references to inputs by what they are called; ``inputs`` where there is one without a name."""
        return dict(self.inputs) if isinstance(self.inputs, dict) else {"inputs": self.inputs}

    def references(self) -> list[str]:
        """Every reference in it, as it is written."""
        return [*self.named_inputs().values(), self.targets, *([self.index] if isinstance(self.index, str) else [])]


class DataSpec(PointsSpec):
    """The training data."""

    weights: TensorRef | None = Field(
        None,
        description="Sample weights [n] ≥ 0: the mean loss is Σ w ℓ / Σ w, a point of weight 2 being two points.",
    )
    batch_size: int = Field(
        1024,
        ge=1,
        le=2**31 - 1,
        strict=True,
        description="Rows of one forward pass; the answer does not depend on it.",
    )

    def references(self) -> list[str]:
        """Every reference in it, as it is written."""
        return [*super().references(), *([] if self.weights is None else [self.weights])]
