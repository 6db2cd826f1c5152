"""A result in a file: what it was made of, so that the job can be run again where its record is gone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ihvp.client.result import SolveResult, read_result
from ihvp.errors import InvalidInput
from ihvp.jobs.submission import RhsSpec
from ihvp.models.spec import ModelSpec
from ihvp.results import METADATA_KEY, X_TENSOR, Provenance, ResultDocument, ResultInfo

__all__ = ["SavedResult", "read_saved", "save_result", "submission_of"]

_KINDS: Final = "a result in safetensors (ihvp result JOB -o x.safetensors) or as JSON (ihvp result JOB --json)"


@dataclass(frozen=True)
class SavedResult:
    """A result as a file has it.

    Attributes:
        provenance: What it was made of.
        result: The whole; None where x was left out of the file for its size.
    """

    provenance: Provenance
    result: SolveResult | None


def save_result(solved: SolveResult, path: Path) -> None:
    """Writes a result as safetensors: x, and in the metadata what it is worth and what it was made of."""
    document = ResultDocument(info=solved.info, provenance=solved.provenance)
    save_file({X_TENSOR: np.ascontiguousarray(solved.x)}, path, metadata=document.to_metadata())


def read_saved(path: Path) -> SavedResult:
    """Reads a file that holds a result.

    Raises:
        InvalidInput: It holds none, or one without its provenance.
        OSError: It cannot be read.
    """
    try:
        path.open("rb").close()  # whose error names the file
        with safe_open(path, framework="numpy") as file:
            told = METADATA_KEY in (file.metadata() or {})
    except SafetensorError:
        return _from_json(path)
    if not told:
        raise InvalidInput("The file does not say what it was made of.", given=str(path), allowed=_KINDS)
    result = read_result("", path, httpx.Headers())
    return SavedResult(result.provenance, replace(result, job_id=result.provenance.job_id))


def _from_json(path: Path) -> SavedResult:
    try:
        document = json.loads(path.read_bytes())
        provenance = Provenance.model_validate(document["provenance"])
        if document.get("x") is None:
            return SavedResult(provenance, None)
        info = ResultInfo.model_validate(document["info"])
        # What is not finite is null in JSON.
        x = np.array(document["x"], dtype=np.float64).astype(document["dtype"])
        return SavedResult(provenance, SolveResult(provenance.job_id, x, info, provenance, str(document["digest"])))
    except ValidationError as error:
        raise _no_result(path, "; ".join(fault["msg"] for fault in error.errors()[:3])) from None
    except KeyError as error:
        raise _no_result(path, f"without {error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise _no_result(path, "neither safetensors nor JSON") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise _no_result(path, str(error)) from None


def _no_result(path: Path, said: str) -> InvalidInput:
    return InvalidInput("The file holds no result.", given=f"{path}: {said}"[:300], allowed=_KINDS)


def submission_of(provenance: Provenance) -> dict[str, Any]:
    """The arguments of ``Client.submit`` that make the same job again: everything pinned, nothing resolved anew.

    Raises:
        InvalidInput: It does not say all that is needed, or does not agree with itself.
    """
    needed = ("spec", "method", "options", "hessian_perturbation", "curvature")
    missing = [name for name in needed if getattr(provenance, name) is None]
    if missing:
        raise InvalidInput(
            "The result does not say all that it was made of.",
            given=f"without {', '.join(missing)}",
            hint="It is of an older version; run its job again by its id.",
        )
    spec = ModelSpec.model_validate(provenance.spec)
    if spec.digest != provenance.model_digest:
        raise InvalidInput(
            "The result's provenance does not agree with itself: the model has another digest.",
            given=spec.digest,
            allowed=provenance.model_digest,
        )
    rhs = RhsSpec.model_validate({name: value for name, value in provenance.rhs.items() if name != "shape"})
    pins = {uri: provenance.sources[uri] for uri in rhs.source_uris() if uri in provenance.sources}
    return {
        "model": spec,
        "rhs": rhs.model_copy(update={"sources": pins}),
        "method": provenance.method,
        "options": provenance.options,
        "hessian_perturbation": provenance.hessian_perturbation,
        "curvature": provenance.curvature,
        "influence": bool(provenance.influence),
    }
