"""What each operation needs of an API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Match

from ihvp.keys.key import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.routing import APIRoute
    from starlette.types import Scope as AsgiScope

__all__ = ["SCOPES", "needed_scope"]

SCOPES: Final[dict[str, Scope | None]] = {
    "submitJob": Scope.Submit,
    "listJobs": Scope.Read,
    "getJob": Scope.Read,
    "cancelJob": Scope.Submit,
    "deleteJob": Scope.Submit,
    "getResult": Scope.Read,
    "getInfluence": Scope.Read,
    "streamJobEvents": Scope.Read,
    "registerModel": Scope.Submit,
    "listModels": Scope.Read,
    "listModelVersions": Scope.Read,
    "getModel": Scope.Read,
    "putBlob": Scope.Submit,
    "getBlob": Scope.Read,
    "headBlob": Scope.Read,
    "describeUploads": Scope.Read,
    "createUpload": Scope.Submit,
    "lookAtUpload": Scope.Submit,
    "continueUpload": Scope.Submit,
    "endUpload": Scope.Submit,
    "listMethods": Scope.Read,
    # Of all tenants together.
    "getMetrics": Scope.Admin,
    # Machines that watch the service have no key, and learn nothing but whether it works.
    "getHealth": None,
    "getReadiness": None,
}
"""By operation id; None needs no key. What is not listed needs ``admin``, and fails a test."""


def needed_scope(routes: Sequence[APIRoute], scope: AsgiScope) -> Scope | None:
    """What a request needs; None where it needs no key: the documentation does not."""
    for route in routes:
        if route.matches(scope)[0] is Match.FULL:
            return SCOPES.get(route.operation_id or "", Scope.Admin)
    # Nothing is there, or not for this method: whoever may read is told so.
    return Scope.Read if scope["path"].startswith("/v1/") else None
