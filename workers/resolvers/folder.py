"""Model folders in Hugging Face layout on the disk: config, index and shards read, tensors mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ihvp.errors import InvalidTensor
from ihvp.models.adapters import ADAPTER_CONFIG_FILE
from ihvp.models.checkpoints import INDEX_FILE, check_shards, pick_weights, read_index
from ihvp.models.huggingface import CONFIG_FILE, MAX_JSON, parse_json
from ihvp.tensors import read_headers

__all__ = ["AdapterFiles", "ModelFiles"]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model folder that its module is made of, by their names in it."""

    paths: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> ModelFiles:
        """Those of a folder on the disk."""
        return cls({path.name: path for path in folder.iterdir() if path.is_file()})

    def config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            InvalidArchitecture: There is none, or it is no JSON object.
        """
        return parse_json(_bytes(self.paths, CONFIG_FILE), CONFIG_FILE)

    def weights(self) -> dict[str, Tensor]:
        """All tensors, mapped into memory.

        Raises:
            PickleRefused: There are weights, but pickled ones only.
            WeightsMismatch: There are none, a shard is missing, or the index and the shards disagree.
            InvalidTensor: A file cannot be read.
        """
        first = pick_weights(self.paths)
        if first != INDEX_FILE:
            return _tensors(self.paths[first])
        index = read_index(parse_json(_bytes(self.paths, INDEX_FILE), INDEX_FILE), self.paths)
        shards = {file: _tensors(self.paths[file]) for file in sorted(set(index.values()))}
        check_shards(index, shards)
        return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class AdapterFiles:
    """The files of an adapter's folder, by their names in it."""

    paths: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> AdapterFiles:
        """Those of a folder on the disk."""
        return cls({path.name: path for path in folder.iterdir() if path.is_file()})

    def config(self) -> dict[str, Any]:
        """``adapter_config.json``.

        Raises:
            InvalidArchitecture: There is none, or it is no JSON object.
        """
        return parse_json(_bytes(self.paths, ADAPTER_CONFIG_FILE), ADAPTER_CONFIG_FILE)

    def weights(self) -> dict[str, Tensor]:
        """All tensors, mapped into memory; see ``ModelFiles.weights`` for errors."""
        return _tensors(self.paths[pick_weights(self.paths, adapter=True)])


def _bytes(paths: Mapping[str, Path], name: str) -> bytes:
    if name not in paths:
        return b""
    with paths[name].open("rb") as file:
        return file.read(MAX_JSON + 1)


def _tensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        try:
            # Before any library makes something of a header: ours is written for callers who lie.
            read_headers(file)
        except InvalidTensor as error:
            given = f"{path.name}: {error.given}" if error.given else path.name
            raise InvalidTensor(error.message, given=given, allowed="a safetensors file") from None
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, json.JSONDecodeError, ValueError, TypeError, AttributeError) as error:
        raise InvalidTensor(
            "The file holds no tensors that can be read.", given=f"{path.name}: {error}", allowed="a safetensors file"
        ) from None
