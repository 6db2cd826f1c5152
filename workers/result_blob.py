"""Results as blobs: one tensor a file, and the solver's info as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from ihvp.blobs.store import BlobGroup, BlobInfo, BlobStore
from workers.tensor_blob import write_tensors

__all__ = ["json_ready", "write_tensor"]

_MOST_LISTED: Final = 10_000
"""Numbers of a tensor in ``info`` that are still written out."""


def write_tensor(blobs: BlobStore | BlobGroup, name: str, tensor: Tensor, metadata: Mapping[str, str]) -> BlobInfo:
    """Stores one tensor as a safetensors blob.

    Args:
        blobs: Where to.
        name: The tensor's name in the file.
        tensor: float32 or float64.
        metadata: The file's metadata.

    Raises:
        OutOfSpace: The store's bound or the disk is reached.
    """
    return write_tensors(blobs, {name: tensor}, metadata)


def json_ready(info: Mapping[str, Any]) -> dict[str, Any]:
    """The solver's info as JSON: numbers that are not finite are null, small tensors lists.

    What is too large to write out (a dense Hessian, eigenvectors) is left out and named with its shape
    under ``left_out``.
    """
    left_out: dict[str, str] = {}
    ready = {name: _ready(value, name, left_out) for name, value in info.items()}
    ready = {name: value for name, value in ready.items() if name not in left_out}
    return {**ready, "left_out": left_out} if left_out else ready


def _ready(value: Any, path: str, left_out: dict[str, str]) -> Any:
    if isinstance(value, Tensor):
        if value.numel() > _MOST_LISTED or path == "hessian":
            left_out[path] = f"tensor {list(value.shape)}"
            return None
        return _ready(value.tolist(), path, left_out)
    if isinstance(value, Mapping):
        return {str(name): _ready(part, f"{path}.{name}", left_out) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_ready(part, f"{path}[{i}]", left_out) for i, part in enumerate(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    # numpy's numbers have item(); anything else a registered solver may put there is told by its text.
    item = getattr(value, "item", None)
    return _ready(item(), path, left_out) if callable(item) else str(value)
