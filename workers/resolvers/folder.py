"""Model folders in Hugging Face layout on the disk: config, index and shards read, tensors mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ihvp.models.adapters import ADAPTER_CONFIG_FILE
from ihvp.models.checkpoints import INDEX_FILE, check_shards, pick_weights, read_index
from ihvp.models.huggingface import CONFIG_FILE, MAX_JSON, parse_json
from workers.resolvers.mapping import map_safetensors

__all__ = ["AdapterFiles", "ModelFiles"]


@dataclass(frozen=True)
class _FolderFiles:
    """The files of a folder, by their names in it."""

    paths: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Those of a folder on the disk."""
        return cls({path.name: path for path in folder.iterdir() if path.is_file()})

    def _document(self, name: str) -> dict[str, Any]:
        if name not in self.paths:
            return parse_json(b"", name)
        with self.paths[name].open("rb") as file:
            return parse_json(file.read(MAX_JSON + 1), name)


class ModelFiles(_FolderFiles):
    """The files of a model folder that its module is made of."""

    def config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            InvalidArchitecture: There is none, or it is no JSON object.
        """
        return self._document(CONFIG_FILE)

    def weights(self) -> dict[str, Tensor]:
        """All tensors, mapped into memory.

        Raises:
            PickleRefused: There are weights, but pickled ones only.
            WeightsMismatch: There are none, a shard is missing, or the index and the shards disagree.
            InvalidTensor: A file cannot be read.
        """
        first = pick_weights(self.paths)
        if first != INDEX_FILE:
            return _mapped(self.paths[first])
        index = read_index(self._document(INDEX_FILE), self.paths)
        shards = {file: _mapped(self.paths[file]) for file in sorted(set(index.values()))}
        check_shards(index, shards)
        return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


class AdapterFiles(_FolderFiles):
    """The files of an adapter's folder."""

    def config(self) -> dict[str, Any]:
        """``adapter_config.json``.

        Raises:
            InvalidArchitecture: There is none, or it is no JSON object.
        """
        return self._document(ADAPTER_CONFIG_FILE)

    def weights(self) -> dict[str, Tensor]:
        """All tensors, mapped into memory; see ``ModelFiles.weights`` for errors."""
        return _mapped(self.paths[pick_weights(self.paths, adapter=True)])


def _mapped(path: Path) -> dict[str, Tensor]:
    return map_safetensors(path, path.name, "a safetensors file")
