"""Kernels that can be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["twice_differentiable_kernels"]


@contextmanager
def twice_differentiable_kernels() -> Iterator[None]:
    """Forces the attention kernel written out in plain operations, and no fused encoder layers.

    The fused kernels have no second derivative and no forward mode; they raise in the middle of a solve.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
