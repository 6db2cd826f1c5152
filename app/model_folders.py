"""Folders in Hugging Face layout as the API reads them: configs, and the headers of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.stored_tensors import StoredTensor, find_tensors
from ihvp.errors import WeightsMismatch
from ihvp.models.adapters import ADAPTER_CONFIG_FILE, check_adapter_config
from ihvp.models.checkpoints import INDEX_FILE, check_shards, is_parameter, pick_weights, read_index
from ihvp.models.huggingface import CONFIG_FILE, MAX_JSON, parse_json, read_config
from ihvp.sources.pinning import pinned_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.referenced_files import ReferencedFiles
    from ihvp.models.huggingface import HuggingFaceModel
    from ihvp.sources.pin import SourcePin

__all__ = ["ModelFolder", "trained_shapes"]


class ModelFolder:
    """A folder whose files were pinned.

    Args:
        uri: The folder.
        files: Opens its files.
        pins: Of the spec.
    """

    def __init__(self, uri: str, files: ReferencedFiles, pins: Mapping[str, SourcePin]) -> None:
        self._uri = uri
        self._files = files
        self._members = pinned_folder(uri, pins)

    @property
    def exists(self) -> bool:
        """Whether the URI names a folder and not a file."""
        return bool(self._members)

    def model(self) -> HuggingFaceModel:
        """What its ``config.json`` says.

        Raises:
            InvalidArchitecture: There is none, or it describes no model of a task that is known here.
            RemoteCodeRefused: It asks for code of its own.
        """
        return read_config(self._json(CONFIG_FILE))

    def check_adapter(self) -> None:
        """Checks its ``adapter_config.json``.

        Raises:
            InvalidArchitecture: There is none that can be read.
            InvalidAdapter: It describes no plain LoRA adapter.
        """
        check_adapter_config(self._json(ADAPTER_CONFIG_FILE))

    def tensors(self, *, adapter: bool = False) -> dict[str, StoredTensor]:
        """All tensors of its weights by name.

        Args:
            adapter: Whether they are an adapter's.

        Raises:
            PickleRefused: There are weights, but pickled ones only.
            WeightsMismatch: There are none, a shard is missing, or index and shards disagree.
            InvalidTensor: A file is no sound safetensors.
        """
        names = set(self._members)
        try:
            first = pick_weights(names, adapter=adapter)
        except WeightsMismatch:
            # What else lies there is not pinned; it tells why there are no weights.
            pick_weights({*names, *self._files.names_in(self._uri)}, adapter=adapter)
            raise
        place = "parameters.adapter" if adapter else "weights"
        if first != INDEX_FILE:
            return find_tensors(self._files, self._members[first], place=place)
        index = read_index(self._json(INDEX_FILE), names)
        shards = {
            file: find_tensors(self._files, self._members[file], place=place) for file in sorted(set(index.values()))
        }
        check_shards(index, shards)
        return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}

    def _json(self, name: str) -> dict[str, object]:
        if name not in self._members:
            return parse_json(b"", name)
        with self._files.open(self._members[name]) as file:
            return parse_json(file.read(MAX_JSON + 1), name)


def trained_shapes(tensors: Mapping[str, StoredTensor]) -> list[tuple[str, tuple[int, ...]]]:
    """The parameters among a checkpoint's tensors, in the order of flat vectors: that of their names."""
    return [
        (name, tensor.shape)
        for name, tensor in sorted(tensors.items())
        if is_parameter(name, tensor.shape, floating=tensor.is_floating)
    ]
