"""Every operation of the model registry as a call to the server; the meaning is in the Lua files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from ihvp.keyvalue.calls import Call, from_microseconds, hash_fields
from ihvp.keyvalue.documents import read_document
from ihvp.models.rules import model_not_found, name_cursor, spec_blobs
from ihvp.models.spec import LayoutEntry, ModelRecord, ModelSpec
from ihvp.models.store import Registration
from ihvp.references import ModelRef
from ihvp.tenants import DEFAULT_TENANT

__all__ = ["ModelCalls"]

Listing = tuple[Sequence[ModelRecord], str | None]


class _Body(BaseModel):
    """What of a record is known before it has a version."""

    model_config = ConfigDict(frozen=True)

    digest: str
    spec: ModelSpec
    num_params: int
    num_points: int
    layout: list[LayoutEntry]


@dataclass(frozen=True)
class ModelCalls:
    """Builds the calls."""

    tenant: str = DEFAULT_TENANT

    def register(
        self, name: str, spec: ModelSpec, *, layout: Sequence[LayoutEntry], num_params: int, num_points: int
    ) -> Call[Registration]:
        """``ModelStore.register``."""
        body = _Body(digest=spec.digest, spec=spec, num_params=num_params, num_points=num_points, layout=list(layout))

        def parse(answer: Any) -> Registration:
            created, version, entry = answer
            return Registration(_record(name, version, entry), created=bool(created))

        return Call("register", (self.tenant, name, body.digest, body.model_dump_json(), *spec_blobs(spec)), parse)

    def get(self, reference: ModelRef) -> Call[ModelRecord]:
        """``ModelStore.get``."""
        args = (self.tenant, reference.name, reference.version or "", reference.alias or "")
        return Call("get", args, _found(reference))

    def name_version(self, name: str, alias: str, version: int) -> Call[ModelRecord]:
        """``ModelStore.name_version``."""
        return Call("name_version", (self.tenant, name, alias, version), _found(ModelRef(name, version)))

    def drop_alias(self, name: str, alias: str) -> Call[None]:
        """``ModelStore.drop_alias``."""

        def parse(answer: Any) -> None:
            latest, dropped = answer
            if not dropped:
                raise model_not_found(ModelRef(name, alias=alias), latest)

        return Call("drop_alias", (self.tenant, name, alias), parse)

    def aliases(self, name: str) -> Call[dict[str, int]]:
        """``ModelStore.aliases``."""

        def parse(answer: Any) -> dict[str, int]:
            return {alias: int(version) for alias, version in sorted(hash_fields(answer).items())}

        return Call("aliases", (self.tenant, name), parse)

    def versions(self, name: str) -> Call[Sequence[ModelRecord]]:
        """``ModelStore.versions``."""

        def parse(answer: Any) -> Sequence[ModelRecord]:
            if not answer:
                raise model_not_found(ModelRef(name), 0)
            return [_record(name, version, entry) for version, entry in answer]

        return Call("versions", (self.tenant, name), parse)

    def list(self, limit: int, cursor: str | None) -> Call[Listing]:
        """``ModelStore.list``."""
        # One more than asked for tells whether there is another page.
        return Call("list", (self.tenant, limit + 1, name_cursor(cursor)), _page_of(limit))

    def referenced_among(self, digests: Collection[str]) -> Call[set[str]]:
        """``ModelStore.referenced_among``."""
        return Call("referenced_among", tuple(digests), set)

    def referenced_blobs(self) -> Call[set[str]]:
        """``ModelStore.referenced_blobs``."""
        return Call("referenced_blobs", (), set)


def _found(reference: ModelRef) -> Callable[[Any], ModelRecord]:
    def parse(answer: Any) -> ModelRecord:
        # A nil at the end of Lua's table is cut off.
        latest, version, *entry = answer
        if not entry or entry[0] is None:
            raise model_not_found(reference, latest)
        return _record(reference.name, version, entry[0])

    return parse


def _record(name: str, version: int, entry: str) -> ModelRecord:
    created, _, body = entry.partition(" ")
    return ModelRecord(
        name=name,
        version=version,
        created_at=from_microseconds(int(created)),
        **dict(read_document(_Body, body)),
    )


def _page_of(limit: int) -> Callable[[Any], Listing]:
    def parse(answer: Any) -> Listing:
        models = [_record(name, version, entry) for name, version, entry in answer[:limit]]
        return models, models[-1].name if len(answer) > limit and models else None

    return parse
