"""Points as a spec refers to them, from the files where they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ihvp.datafiles.folders import table_names
from ihvp.errors import InvalidIndex, InvalidSampleWeights
from ihvp.models.points import DataSpec, PointsSpec
from ihvp.models.spec import LossSpec
from ihvp.references import TensorName
from workers.resolvers.columns import Column, map_column
from workers.resolvers.data import PointBatches, Rows
from workers.resolvers.files import FileAccess, Files
from workers.resolvers.unpacking import Scratch

__all__ = ["PointFiles"]

_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class PointFiles:
    """Where points come from.

    Attributes:
        files: Blobs and others.
        scratch: Where what is packed in them is unpacked to.
    """

    files: FileAccess
    scratch: Scratch = field(default_factory=Scratch)

    def has_whole_targets(self, spec: PointsSpec) -> bool:
        """Whether the targets are whole numbers.

        Raises:
            BlobNotFound: A blob is gone.
            InvalidTensor: The file holds no readable column of that name.
        """
        return not self._column(spec.targets, "targets").dtype.is_floating_point

    def batches(
        self,
        spec: PointsSpec,
        *,
        batch_size: int,
        dtype: torch.dtype,
        loss: LossSpec,
        next_tokens: bool = False,
    ) -> PointBatches:
        """The points of a spec.

        Args:
            spec: Where they are.
            batch_size: Most rows of a batch.
            dtype: The model's.
            loss: Says whether targets are classes.
            next_tokens: Whether targets ``[n, t]`` are tokens, of which each but the first is predicted.

        Raises:
            BlobNotFound: A blob is gone.
            InvalidTensor: A file holds no readable column of that name.
            InvalidInput: They do not make a data set; see ``PointBatches``.
        """
        weights = spec.weights if isinstance(spec, DataSpec) else None
        rows = Rows(
            {name: self._column(ref, name) for name, ref in spec.named_inputs().items()},
            self._column(spec.targets, "targets"),
            None if weights is None else _checked_weights(self._column(weights, "weights")),
            self._index(spec.index),
            named=isinstance(spec.inputs, dict),
        )
        return PointBatches(
            rows, batch_size=batch_size, dtype=dtype, classes=loss.whole_targets, next_tokens=next_tokens
        )

    def _column(self, reference: str, role: str) -> Column:
        wanted = TensorName.parse(reference)
        return map_column(self._paths(wanted.source), wanted, role, self.scratch)

    def _paths(self, source: str) -> list[Path]:
        """The file that is meant, or the tables of a folder."""
        members = self.files.folder(source) if isinstance(self.files, Files) else {}
        if not members:
            return [self.files.local_path(source)]
        names = table_names(members, lambda name: self.files.local_path(members[name]).open("rb"))
        return [self.files.local_path(members[name]) for name in names]

    def _index(self, index: list[int] | str | None) -> Tensor | None:
        if index is None or isinstance(index, list):
            return None if index is None else torch.tensor(index, dtype=torch.int64)
        found = self._column(index, "index")
        if found.dtype.is_floating_point:
            raise InvalidIndex(
                "An index is a list of row numbers.", given=f"index {found.dtype}", allowed="whole numbers [m]"
            )
        return found[:].to(torch.int64) if found.dtype != torch.bool else found[:]


def _checked_weights(weights: Column) -> Column:
    """Sample weights in which every number has been looked at.

    Raises:
        InvalidSampleWeights: One is negative or not finite.
    """
    for start in range(0, weights.shape[0] if weights.shape else 0, _ROWS_AT_ONCE):
        part = weights[start : start + _ROWS_AT_ONCE].double()
        wrong = ~(part.isfinite() & (part >= 0))
        if wrong.any():
            at = int(wrong.flatten().nonzero()[0])
            raise InvalidSampleWeights(
                "A sample weight is negative or not finite.",
                given=f"{float(part.flatten()[at]):g} in row {start + at}",
                allowed="finite numbers ≥ 0",
            )
    return weights
