"""Tensors of blobs, mapped into memory: a page is read when it is used, and nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ihvp.errors import InvalidTensor
from ihvp.references import TensorName
from ihvp.tensors import read_headers
from workers.resolvers.files import FileAccess

__all__ = ["map_file", "map_safetensors", "map_tensors", "pick_tensor"]

_SUFFICIENT = "an npy file, or a safetensors file"


def map_tensors(files: FileAccess, source: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name; an npy file's only tensor under the empty name.

    The mappings are private: writing to one changes neither the blob nor another reader's view.

    Raises:
        BlobNotFound: No blob has this digest.
        InvalidTensor: The file is neither a readable npy nor a readable safetensors file.
    """
    return map_file(files.local_path(source), source)


def map_file(path: Path, source: str) -> dict[str, Tensor]:
    """The same of a file, which messages call by ``source``."""
    with path.open("rb") as file:
        start = file.read(len(npy.MAGIC_PREFIX))
    if start != npy.MAGIC_PREFIX:
        return map_safetensors(path, source)
    _check_headers(path, source)
    return {"": _map_npy(path, source)}


def map_safetensors(path: Path, source: str, allowed: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which messages call by ``source``.

    Args:
        path: The file.
        source: What messages call it.
        allowed: What would do instead of a file that cannot be read; left out, an npy file too.

    Raises:
        InvalidTensor: It is no safetensors file.
    """
    _check_headers(path, source, allowed)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, json.JSONDecodeError, ValueError, TypeError, AttributeError) as error:
        raise InvalidTensor(
            "The file holds no tensors that can be read.", given=f"{source}: {error}", allowed=allowed or _SUFFICIENT
        ) from None


def _check_headers(path: Path, source: str, allowed: str | None = None) -> None:
    """Before any library makes something of a header.

    Ours is written for callers who lie, and the API has refused by it what it refuses here.
    """
    with path.open("rb") as file:
        try:
            read_headers(file)
        except InvalidTensor as error:
            given = source if error.given is None else f"{source}: {error.given}"
            raise InvalidTensor(
                error.message, given=given, allowed=allowed or error.allowed, hint=error.hint
            ) from None


def pick_tensor(tensors: Mapping[str, Tensor], wanted: TensorName, default: str) -> Tensor:
    """The tensor that a reference means among those of its blob.

    Args:
        tensors: All of them.
        wanted: The reference.
        default: The name that is meant where the reference has none and the blob holds several.

    Raises:
        InvalidTensor: There is no such tensor.
    """
    name = wanted.name
    if name is None:
        name = next(iter(tensors)) if len(tensors) == 1 else default
    elif "" in tensors:
        raise InvalidTensor("An npy file holds one tensor without a name.", given=str(wanted), allowed=wanted.source)
    if name not in tensors:
        names = sorted(tensors)
        raise InvalidTensor(
            f"The file has no tensor {name!r}.",
            given=str(wanted),
            allowed=", ".join(names[:20]) + (", …" if len(names) > 20 else "") or "it holds no tensor",
            hint="Write sha256:<hex>#<name>.",
        )
    return tensors[name]


def _map_npy(path: Path, digest: str) -> Tensor:
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as first:
        # Nothing can be mapped of an array without elements, which is still an array.
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise InvalidTensor("The npy file cannot be read.", given=f"{digest}: {first}") from None
    except (EOFError, OSError) as error:
        raise InvalidTensor("The npy file cannot be read.", given=f"{digest}: {error}") from None
    try:
        return torch.from_numpy(np.asarray(array))
    except (TypeError, ValueError) as error:
        raise InvalidTensor(
            "The npy file's dtype cannot be used.", given=str(array.dtype), allowed="little-endian numbers"
        ) from error
