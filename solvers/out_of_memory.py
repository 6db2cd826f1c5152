"""Running out of memory, on whatever device: how it is recognised, and what is said where nothing smaller is left."""

from __future__ import annotations

from typing import Final

import torch

from ihvp.errors import OutOfMemory

__all__ = ["free_cached", "is_out_of_memory", "nothing_smaller"]

SAID: Final = ("can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""What the processor's allocators on Linux, macOS and Windows, and CUDA's libraries say: in a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def nothing_smaller(error: BaseException) -> OutOfMemory:
    """What to raise, from ``error``, where a single point at a time does not fit."""
    return OutOfMemory(
        "Not even one training point at a time fits the memory that is free.",
        given=(str(error).splitlines() or [""])[0][:200] or None,
        hint="Solve for fewer right-hand sides at a time, choose fewer parameters, or use a device with more memory.",
    )


def free_cached(device: torch.device) -> None:
    """Gives back what torch keeps of a device's memory for reuse: it may lie in pieces of the wrong size."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
