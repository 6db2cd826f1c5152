"""Every operation of the store of observations as a call to the server; the meaning is in the Lua files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ihvp.costs.observation import ERROR_BOUNDS, Known, Observation, error_bucket
from ihvp.costs.store import KEPT_HERE, KEPT_MODELS, KEPT_RECENT
from ihvp.keyvalue.calls import Call, hash_fields
from ihvp.methods import Curvature, InversionMethod

__all__ = ["CostCalls"]

Errors = Mapping[InversionMethod, Sequence[int]]


class CostCalls:
    """Builds the calls."""

    def record(self, observation: Observation, log_error: float | None) -> Call[None]:
        """``CostStore.record``."""
        error = "" if log_error is None else f"{observation.method.value}:{error_bucket(log_error)}"
        text = observation.model_dump_json()
        key = _key(observation.model, observation.curvature)
        return Call("record", (key, text, error, KEPT_HERE, KEPT_RECENT, KEPT_MODELS), _nothing)

    def known(self, model: str, curvature: Curvature) -> Call[Known]:
        """``CostStore.known``."""
        return Call("known", (_key(model, curvature),), _known)

    def errors(self) -> Call[Errors]:
        """``CostStore.errors``."""
        return Call("errors", (), _errors)


def _key(model: str, curvature: Curvature) -> str:
    return f"{model}:{curvature.value}"


def _known(answer: Any) -> Known:
    here, recent = answer
    return Known(tuple(_readable(here)), tuple(_readable(recent)))


def _readable(texts: Iterable[str]) -> Iterable[Observation]:
    for text in texts:
        try:
            yield Observation.model_validate_json(text)
        except ValidationError:
            continue  # another version wrote it; newer ones will push it out


def _errors(answer: Any) -> Errors:
    found: dict[InversionMethod, list[int]] = {}
    known = {method.value: method for method in InversionMethod}
    for name, count in hash_fields(answer).items():
        method, _, bucket = name.partition(":")
        if method in known and int(bucket) < len(ERROR_BOUNDS):
            found.setdefault(known[method], [0] * len(ERROR_BOUNDS))[int(bucket)] = int(count)
    return found


def _nothing(answer: Any) -> None:
    del answer
