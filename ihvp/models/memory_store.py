"""The model registry in plain Python: the readable model of the semantics, and a registry for tests."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from ihvp.models.rules import model_not_found, name_cursor, spec_blobs
from ihvp.models.spec import LayoutEntry, ModelRecord, ModelSpec
from ihvp.models.store import Registration
from ihvp.references import ModelRef
from ihvp.tenants import DEFAULT_TENANT

__all__ = ["MemoryModelStore"]


class MemoryModelStore:
    """``ModelStore`` within one process; nothing outlives it. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, list[ModelRecord]] = {}
        self._of_all: dict[str, dict[str, list[ModelRecord]]] = {DEFAULT_TENANT: self._models}
        self._aliases: dict[str, dict[str, int]] = {}
        self._aliases_of_all: dict[str, dict[str, dict[str, int]]] = {DEFAULT_TENANT: self._aliases}

    def of(self, tenant: str) -> MemoryModelStore:
        """See ``ModelStore.of``."""
        view = MemoryModelStore()
        view._lock, view._of_all = self._lock, self._of_all
        view._models = self._of_all.setdefault(tenant, {})
        view._aliases_of_all = self._aliases_of_all
        view._aliases = self._aliases_of_all.setdefault(tenant, {})
        return view

    def register(
        self, name: str, spec: ModelSpec, *, layout: Sequence[LayoutEntry], num_params: int, num_points: int
    ) -> Registration:
        """See ``ModelStore.register``."""
        with self._lock:
            versions = self._models.setdefault(name, [])
            for model in versions:
                if model.digest == spec.digest:
                    return Registration(model, created=False)
            model = ModelRecord(
                name=name,
                version=len(versions) + 1,
                digest=spec.digest,
                spec=spec,
                num_params=num_params,
                num_points=num_points,
                layout=list(layout),
                created_at=datetime.now(UTC),
            )
            versions.append(model)
            return Registration(model, created=True)

    def get(self, reference: ModelRef) -> ModelRecord:
        """See ``ModelStore.get``."""
        with self._lock:
            versions = self._models.get(reference.name, [])
            wanted = reference.version or len(versions)
            if reference.alias is not None:
                wanted = self._aliases.get(reference.name, {}).get(reference.alias, 0)
            if not 1 <= wanted <= len(versions):
                raise model_not_found(reference, len(versions))
            return versions[wanted - 1]

    def name_version(self, name: str, alias: str, version: int) -> ModelRecord:
        """See ``ModelStore.name_version``."""
        model = self.get(ModelRef(name, version))
        with self._lock:
            self._aliases.setdefault(name, {})[alias] = version
        return model

    def drop_alias(self, name: str, alias: str) -> None:
        """See ``ModelStore.drop_alias``."""
        with self._lock:
            if self._aliases.get(name, {}).pop(alias, None) is None:
                raise model_not_found(ModelRef(name, alias=alias), len(self._models.get(name, [])))

    def aliases(self, name: str) -> dict[str, int]:
        """See ``ModelStore.aliases``."""
        with self._lock:
            return dict(sorted(self._aliases.get(name, {}).items()))

    def versions(self, name: str) -> Sequence[ModelRecord]:
        """See ``ModelStore.versions``."""
        with self._lock:
            if name not in self._models:
                raise model_not_found(ModelRef(name), 0)
            return self._models[name][::-1]

    def list(self, *, limit: int, cursor: str | None = None) -> tuple[Sequence[ModelRecord], str | None]:
        """See ``ModelStore.list``."""
        start = name_cursor(cursor)
        with self._lock:
            names = sorted(name for name in self._models if name > start)
            page = [self._models[name][-1] for name in names[:limit]]
        return page, page[-1].name if len(names) > limit and page else None

    def referenced_among(self, digests: Collection[str]) -> set[str]:
        """See ``ModelStore.referenced_among``."""
        return self.referenced_blobs() & set(digests)

    def referenced_blobs(self) -> set[str]:
        """See ``ModelStore.referenced_blobs``."""
        with self._lock:
            return {
                digest
                for models in self._of_all.values()
                for versions in models.values()
                for model in versions
                for digest in spec_blobs(model.spec)
            }
