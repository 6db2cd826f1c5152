"""What every model registry applies in the same way: its errors and the syntax of a cursor."""

from __future__ import annotations

import re

from ihvp.errors import InvalidInput, ModelNotFound
from ihvp.models.spec import ModelSpec
from ihvp.references import MODEL_NAME_PATTERN, ModelRef

__all__ = ["model_not_found", "name_cursor", "spec_blobs"]


def model_not_found(reference: ModelRef, latest: int) -> ModelNotFound:
    """No such name (``latest`` is 0), or no such version or alias of it."""
    if latest == 0:
        return ModelNotFound(
            "No model has this name.", given=reference.name, hint="GET /v1/models lists the registered models."
        )
    if reference.alias is not None:
        return ModelNotFound(
            "No version of the model has this alias.",
            given=str(reference),
            allowed=f"versions 1 to {latest}, and the model's aliases",
            hint=f"GET /v1/models/{reference.name} lists them.",
        )
    return ModelNotFound("The model has no such version.", given=str(reference), allowed=f"versions 1 to {latest}")


def name_cursor(cursor: str | None) -> str:
    """Reads the cursor of a listing: the last name of the page before; empty at the start.

    Raises:
        InvalidInput: It is none that a listing has given out.
    """
    if cursor is not None and not re.fullmatch(MODEL_NAME_PATTERN, cursor):
        raise InvalidInput(
            "This is not a cursor of a model listing.",
            given=cursor[:100],
            hint="Follow the link 'next' of the page before, or leave the cursor out to start at the first name.",
        )
    return cursor or ""


def spec_blobs(spec: ModelSpec) -> list[str]:
    """The blobs a model needs, each once."""
    return sorted(set(spec.blob_digests()))
