"""Results as blobs: safetensors files written straight from the solver's memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.blobs.store import BlobInfo, BlobStore

__all__ = ["json_ready", "write_tensor"]

_DTYPES: Final = {torch.float32: "F32", torch.float64: "F64"}
_CHUNK: Final = 4 * 1024 * 1024
_MOST_LISTED: Final = 10_000
"""Numbers of a tensor in ``info`` that are still written out."""


def write_tensor(blobs: BlobStore, name: str, tensor: Tensor, metadata: Mapping[str, str]) -> BlobInfo:
    """Stores one tensor as a safetensors blob, in pieces, without a second copy of it.

    Args:
        blobs: Where to.
        name: The tensor's name in the file.
        tensor: float32 or float64.
        metadata: The file's metadata.

    Raises:
        OutOfSpace: The store's bound or the disk is reached.
    """
    rows = tensor.detach().to("cpu").contiguous()
    header = json.dumps(
        {
            "__metadata__": dict(metadata),
            name: {"dtype": _DTYPES[rows.dtype], "shape": list(rows.shape), "data_offsets": [0, rows.nbytes]},
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)
    raw = rows.reshape(-1).view(torch.uint8).numpy().data
    with blobs.writer() as writer:
        writer.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, len(raw), _CHUNK):
            writer.write(bytes(raw[start : start + _CHUNK]))
        return writer.commit()


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
