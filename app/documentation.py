"""The OpenAPI document: what FastAPI derives from the routes, and what holds for all of them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.problems import problems
from app.scopes import SCOPES
from ihvp import errors as e
from ihvp.keys.key import Scope
from ihvp.wire import ProblemDetails

__all__ = ["DESCRIPTION", "TAGS", "install_openapi"]

DESCRIPTION: Final = """
Solves (H + λI) x = b, where H is the curvature of a model's training loss at its trained parameters.

1. Upload weights and data as blobs, 2. register a model, 3. submit a job, 4. wait for it, 5. fetch the result.
Every solution comes with a certificate: the residual that was recomputed after the solve, with the true operator.

A service that needs API keys takes them as `Authorization: Bearer ihvp_…`; one without keys is open to whoever
reaches it. To the holder of a key, what belongs to another tenant does not exist.

Errors are `application/problem+json` (RFC 9457) with a stable `code`, and say what was given, what is allowed and
what to try. Every response has an `X-Request-ID`; send your own to find it in the logs.
"""
TAGS: Final = [
    {"name": "jobs", "description": "Solves, from submit to result."},
    {"name": "models", "description": "Immutable versions of models: architecture, weights, loss, data."},
    {"name": "blobs", "description": "Weights, data and results as bytes, named by their sha256."},
    {"name": "uploads", "description": "Large blobs in parts, resumed where they broke off: tus 1.0."},
    {"name": "methods", "description": "The inversion methods and their options."},
    {"name": "webhooks", "description": "Deliveries of what jobs' webhooks are told, and the secrets that sign them."},
    {"name": "health", "description": "For machines that watch the service."},
]
REQUEST_ID_PARAMETER: Final = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Comes back in the answer and stands in the logs. Left out, or not up to 128 letters, digits and "
    "._:/+=-, another one is made.",
    "schema": {"type": "string"},
    "example": "5f0c1b7be0a94d11",
}
REQUEST_ID_HEADER: Final = {
    "description": "The request's id.",
    "required": True,
    "schema": {"type": "string"},
    "example": "5f0c1b7be0a94d11",
}


GUARDED: Final = (e.Unauthenticated, e.Forbidden, e.RateLimited, e.StoreUnavailable)
"""What the middleware in front of a route may answer with."""


def install_openapi(app: FastAPI) -> None:
    """Sets how the application describes itself; made once, when first asked for."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        license_info=app.license_info,
    )
    components = document.setdefault("components", {})
    components.setdefault("parameters", {})["RequestId"] = REQUEST_ID_PARAMETER
    components.setdefault("headers", {})["RequestId"] = REQUEST_ID_HEADER
    _, problem = models_json_schema([(ProblemDetails, "serialization")], ref_template="#/components/schemas/{model}")
    components.setdefault("schemas", {}).update(problem["$defs"])
    components["securitySchemes"] = {
        "apiKey": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "ihvp_<id>_<secret>",
            "description": "Made with `ihvp keys create`. Not needed while the service has no key.",
        }
    }
    for path in document["paths"].values():
        for operation in path.values():
            needed = SCOPES.get(operation["operationId"], Scope.Admin)
            if needed is not None:
                # The empty one says that a key is optional: a service without keys asks for none.
                operation["security"] = [{"apiKey": []}, {}]
                operation["description"] = f"{operation['description']}\n\nScope: `{needed.value}`."
                for status, response in problems(*GUARDED).items():
                    _merge(operation["responses"].setdefault(str(status), {}), response)
            operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/RequestId"})
            for response in operation["responses"].values():
                response.setdefault("headers", {})["X-Request-ID"] = {"$ref": "#/components/headers/RequestId"}
    return document


def _merge(response: dict[str, Any], further: dict[str, Any]) -> None:
    """Adds what a middleware may answer to what the route itself may answer with the same status."""
    for name, part in further.items():
        if name == "description":
            known = response.get(name)
            response[name] = part if not known or known == part else f"{known}; {part}" if part not in known else known
        elif isinstance(part, dict):
            _merge(response.setdefault(name, {}), part)
        else:
            response.setdefault(name, part)
