"""Documents that stores keep as JSON."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeVar

from pydantic import BaseModel

__all__ = ["read_document"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_KEPT: Final = 128
_LARGEST_KEPT: Final = 16 * 1024


def read_document(kind: type[ModelT], text: str) -> ModelT:
    """The document that a text is.

    A job's request is read when it is made, with each look at it and when it ends, a model with each job on it. So the
    last small ones are kept, and are the same object.

    Args:
        kind: A frozen model; nothing in it is changed.
        text: JSON.
    """
    return _kept(kind, text) if len(text) <= _LARGEST_KEPT else kind.model_validate_json(text)


@lru_cache(_KEPT)
def _kept(kind: type[ModelT], text: str) -> ModelT:
    return kind.model_validate_json(text)
