"""Factors that outlive a worker: blobs that another one loads instead of making them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

import structlog
from torch import Tensor

from ihvp import __version__
from ihvp.blobs.store import BlobStore
from ihvp.errors import IhvpError
from ihvp.factors.index import FactorIndex
from workers.resolvers.mapping import map_tensors
from workers.tally import Tally
from workers.tensor_blob import write_tensors

__all__ = ["BlobFactors"]

_log = structlog.get_logger(__name__)

_READ_RATE: Final = 1e9
"""Bytes a second that loading is good for: a factor that is made as fast is not worth its place on the disk."""


class BlobFactors:
    """``solvers.factors.FactorStore`` of one problem: its factors in the blob store, found by the index.

    Nothing here can fail a solve: a store that is away or full, or a blob that has gone, only means that a factor
    is made again, or not kept.

    Args:
        blobs: Holds the tensors.
        index: Says which blob holds which factor.
        model_digest: The model, its data, loss, parameters and dtype; a factor's key names the curvature.
        tally: Where it is counted what was found.
    """

    def __init__(self, blobs: BlobStore, index: FactorIndex, model_digest: str, tally: Tally | None = None) -> None:
        self._blobs = blobs
        self._index = index
        self._tally = tally or Tally()
        # A version may lay its factors out, or draw its random numbers, in another way.
        self._problem = [__version__, model_digest]

    def load(self, key: str) -> Mapping[str, Tensor] | None:
        """See ``FactorStore.load``."""
        name = self._name(key)
        try:
            digest = self._index.find(name)
            if digest is None:
                self._tally.add("factor_store_requests", "miss")
                return None
            try:
                found = map_tensors(self._blobs, digest)
            except IhvpError:
                self._index.forget(name)
                raise
            self._tally.add("factor_store_requests", "hit")
            return found
        except (IhvpError, OSError) as error:
            _log.warning("factor_not_loaded", key=key, error=str(error))
            return None

    def save(self, key: str, tensors: Mapping[str, Tensor], seconds: float) -> None:
        """See ``FactorStore.save``."""
        if sum(tensor.nbytes for tensor in tensors.values()) > seconds * _READ_RATE:
            return
        try:
            blob = write_tensors(self._blobs, tensors, {"key": key})
            if not self._index.keep(self._name(key), blob.digest, blob.size) and blob.created:
                self._blobs.delete(blob.digest)
        except (IhvpError, OSError) as error:
            _log.warning("factor_not_kept", key=key, error=str(error))

    def _name(self, key: str) -> str:
        return hashlib.sha256(json.dumps([*self._problem, key]).encode()).hexdigest()
