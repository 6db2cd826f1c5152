"""What each operation needs of an API key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ihvp.keys.key import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.routing import APIRoute

__all__ = ["SCOPES", "Needs"]

SCOPES: Final[dict[str, Scope | None]] = {
    "submitJob": Scope.Submit,
    "listJobs": Scope.Read,
    "getJob": Scope.Read,
    "cancelJob": Scope.Submit,
    "deleteJob": Scope.Submit,
    "rerunJob": Scope.Submit,
    "getResult": Scope.Read,
    "getInfluence": Scope.Read,
    "streamJobEvents": Scope.Read,
    "registerModel": Scope.Submit,
    "listModels": Scope.Read,
    "listModelVersions": Scope.Read,
    "getModel": Scope.Read,
    "setModelAlias": Scope.Submit,
    "dropModelAlias": Scope.Submit,
    "putBlob": Scope.Submit,
    "getBlob": Scope.Read,
    "headBlob": Scope.Read,
    "describeUploads": Scope.Read,
    "createUpload": Scope.Submit,
    "lookAtUpload": Scope.Submit,
    "continueUpload": Scope.Submit,
    "endUpload": Scope.Submit,
    "listDeliveries": Scope.Read,
    "getDelivery": Scope.Read,
    "replayDelivery": Scope.Submit,
    "listWebhookSecrets": Scope.Admin,
    "createWebhookSecret": Scope.Admin,
    "rotateWebhookSecret": Scope.Admin,
    "listMethods": Scope.Read,
    # Of all tenants together.
    "getMetrics": Scope.Admin,
    # Machines that watch the service have no key, and learn nothing but whether it works.
    "getHealth": None,
    "getReadiness": None,
}
"""By operation id; None needs no key. What is not listed needs ``admin``, and fails a test."""


class Needs:
    """What requests need, by method and path; built once, for each request is looked up.

    Args:
        routes: All that need something, the busiest first.
    """

    def __init__(self, routes: Sequence[APIRoute]) -> None:
        self._by_method: dict[str, list[tuple[re.Pattern[str], Scope | None]]] = {}
        for route in routes:
            needed = SCOPES.get(route.operation_id or "", Scope.Admin)
            for method in route.methods or ():
                self._by_method.setdefault(method, []).append((route.path_regex, needed))

    def of(self, method: str, path: str) -> Scope | None:
        """What a request needs; None where it needs no key: the documentation does not."""
        for pattern, needed in self._by_method.get(method, ()):
            if pattern.match(path):
                return needed
        # Nothing is there, or not for this method: whoever may read is told so.
        return Scope.Read if path.startswith("/v1/") else None
