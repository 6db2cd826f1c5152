"""Tensors as safetensors blobs, written straight from the solver's memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.blobs.store import BlobGroup, BlobInfo, BlobStore

__all__ = ["write_tensors"]

_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK: Final = 4 * 1024 * 1024


def write_tensors(
    blobs: BlobStore | BlobGroup, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> BlobInfo:
    """Stores tensors as a safetensors blob, in pieces, without a second copy of those that lie on the CPU.

    Args:
        blobs: Where to.
        tensors: By their names in the file.
        metadata: The file's metadata.

    Raises:
        OutOfSpace: The store's bound or the disk is reached.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with blobs.writer() as writer:
        writer.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            raw = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(raw), _CHUNK):
                writer.write(bytes(raw[start : start + _CHUNK]))
        return writer.commit()
