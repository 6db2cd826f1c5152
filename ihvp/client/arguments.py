"""What a caller may pass for tensors, right-hand sides and models, as the documents that the service takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from ihvp.client.uploads import BlobSource, tensor_bytes
from ihvp.errors import InvalidInput
from ihvp.references import EXPORT, TensorName
from ihvp.sources.uri import is_reference

__all__ = ["INLINE_ELEMENTS", "Arguments"]

INLINE_ELEMENTS: Final = 1000
RHS_FORMS: Final = frozenset({"inline", "blob", "gradient_of"})
RHS_FIELDS: Final = RHS_FORMS | {"sources"}
EXPORT_SUFFIX: Final = ".pt2"


class Arguments:
    """Reads arguments; arrays and files in them become blobs.

    Args:
        put_blob: Uploads bytes or a file and returns its digest.
    """

    def __init__(self, put_blob: Callable[[BlobSource], str]) -> None:
        self._put_blob = put_blob

    def tensor(self, value: Any) -> str:
        """A tensor reference: as it is, or that of the uploaded array, mapping of arrays, bytes or file.

        Raises:
            InvalidReference: A text starts like a reference and is none.
            InvalidTensor: An array does not hold plain numbers.
        """
        if isinstance(value, str) and is_reference(value):
            return str(TensorName.parse(value))
        if isinstance(value, str | PathLike):
            return self._put_blob(Path(value))
        if isinstance(value, bytes):
            return self._put_blob(value)
        return self._put_blob(tensor_bytes(value))

    def rhs(self, value: Any) -> dict[str, Any]:
        """The right-hand sides.

        Args:
            value: An array ``[p]`` or ``[k, p]``, a mapping of parameter names to arrays, a reference or file, or
                one of the forms ``inline``, ``blob``, ``gradient_of``, with arrays in it or not.
        """
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json", exclude_none=True)
        if isinstance(value, Mapping) and not RHS_FORMS.isdisjoint(value) and RHS_FIELDS.issuperset(value):
            return {form: self._rhs_form(form, content) for form, content in value.items()}
        if isinstance(value, str | PathLike | bytes | Mapping):
            return {"blob": self.tensor(value)}
        array = np.asarray(value)
        # JSON has no NaN; as a blob it reaches the check that says which entry is at fault.
        if array.dtype.kind in "biuf" and 0 < array.size <= INLINE_ELEMENTS and np.isfinite(array).all():
            return {"inline": array.tolist()}
        return {"blob": self.tensor(array)}

    def model(self, spec: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A model's spec, out of one that was given and further fields.

        Raises:
            InvalidInput: ``data`` is not a mapping.
        """
        given = spec.model_dump(mode="json") if isinstance(spec, BaseModel) else dict(spec or {})
        document = {**given, **{name: value for name, value in fields.items() if value is not None}}
        if "weights" in document:
            document["weights"] = self._weights(document["weights"])
        if "data" in document:
            document["data"] = self._data(document["data"])
        for name, value in document.items():
            if isinstance(value, BaseModel):
                document[name] = value.model_dump(mode="json")
        return document

    def submission(
        self,
        *,
        model: Any,
        rhs: Any,
        method: str = "cg",
        hessian_perturbation: float | str | Mapping[str, float] = 0.0,
        options: Mapping[str, Any] | None = None,
        curvature: str = "hessian",
        influence: bool | Mapping[str, Any] = False,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        priority: str | None = None,
        webhook: str | Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The body of ``POST /v1/jobs``; see ``Client.submit`` for the arguments."""
        document = {
            "model": model if isinstance(model, str) else self.model(model, {}),
            "rhs": self.rhs(rhs),
            "method": str(getattr(method, "value", method)),
            "hessian_perturbation": (
                dict(hessian_perturbation) if isinstance(hessian_perturbation, Mapping) else hessian_perturbation
            ),
            "options": dict(options or {}),
            "curvature": str(getattr(curvature, "value", curvature)),
            "influence": {"on": "training"} if influence is True else dict(influence) if influence else None,
            "tags": dict(tags or {}),
            "deadline_s": deadline_s,
            "priority": priority,
            "webhook": {"url": webhook} if isinstance(webhook, str) else webhook,
        }
        return {name: value for name, value in document.items() if value is not None}

    def _weights(self, value: Any) -> str:
        """A file whose name ends in .pt2 is an exported program."""
        if isinstance(value, str) and value.startswith(EXPORT):
            return value
        exported = isinstance(value, str | PathLike) and Path(value).suffix == EXPORT_SUFFIX
        return (EXPORT if exported and "://" not in str(value) else "") + self.tensor(value)

    def _rhs_form(self, form: str, content: Any) -> Any:
        if form == "gradient_of":
            return self._data(content)
        if form == "blob":
            return self.tensor(content)
        if form == "sources":
            return dict(content)
        return content if isinstance(content, list) else np.asarray(content).tolist()

    def _data(self, value: Any) -> dict[str, Any]:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        if not isinstance(value, Mapping):
            raise InvalidInput(
                "Data points are a mapping.", given=type(value).__name__, allowed='{"inputs": …, "targets": …}'
            )
        return {name: self._points(name, content) for name, content in value.items()}

    def _points(self, name: str, content: Any) -> Any:
        if name == "inputs" and isinstance(content, Mapping):
            return {each: self.tensor(part) for each, part in content.items()}
        plain = name == "index" and isinstance(content, list | range)
        tensors = {"inputs", "targets", "weights", "index"}
        if plain or name not in tensors or content is None:
            return list(content) if plain else content
        return self.tensor(content)
