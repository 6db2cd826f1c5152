"""The model registry's contract."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ihvp.models.spec import LayoutEntry, ModelRecord, ModelSpec
from ihvp.references import ModelRef

__all__ = ["ModelStore", "Registration"]


@dataclass(frozen=True)
class Registration:
    """A version, and whether this call made it."""

    model: ModelRecord
    created: bool


class ModelStore(Protocol):
    """Immutable versions under names; every method may raise ``StoreUnavailable``."""

    def of(self, tenant: str) -> ModelStore:
        """The models of this tenant; without, they are the default one's. What is referenced is told of all."""

    def register(
        self, name: str, spec: ModelSpec, *, layout: Sequence[LayoutEntry], num_params: int, num_points: int
    ) -> Registration:
        """The next version of a name; a spec that the name already has keeps its version."""

    def get(self, reference: ModelRef) -> ModelRecord:
        """The version.

        Raises:
            ModelNotFound: No model has this name, or it has no such version or alias.
        """

    def name_version(self, name: str, alias: str, version: int) -> ModelRecord:
        """Has an alias stand for a version from now on, whatever it stood for before; returns the version.

        Raises:
            ModelNotFound: No model has this name, or it has no such version.
        """

    def drop_alias(self, name: str, alias: str) -> None:
        """Takes an alias away; the version stays.

        Raises:
            ModelNotFound: No model has this name, or it has no such alias.
        """

    def aliases(self, name: str) -> dict[str, int]:
        """The version of each alias of a name, in order of aliases."""

    def versions(self, name: str) -> Sequence[ModelRecord]:
        """All versions of a name, newest first.

        Raises:
            ModelNotFound: No model has this name.
        """

    def list(self, *, limit: int, cursor: str | None = None) -> tuple[Sequence[ModelRecord], str | None]:
        """The latest version of each name, in order of names, and the cursor of the next page."""

    def referenced_among(self, digests: Collection[str]) -> set[str]:
        """Those of the digests that any registered model needs."""

    def referenced_blobs(self) -> set[str]:
        """Digests that any registered model needs."""
