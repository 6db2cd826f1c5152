"""Kernels that can be differentiated twice, and that compute what the dtype promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["AttentionWatch", "full_precision", "twice_differentiable_kernels"]


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32: it has ten bits of mantissa, and a residual that it computes says nothing about float32's.

    What was set before is set again after.
    """
    # Without a CUDA context there is nothing to set, and asking must not make one.
    before = _set_precision({}) if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if before is not None:
            _set_precision(before)


@contextmanager
def twice_differentiable_kernels() -> Iterator[None]:
    """Forces the attention kernel written out in plain operations, no fused encoder layers, and no TF32.

    The fused kernels have no second derivative and no forward mode; they raise in the middle of a solve. What was
    set before is set again after.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with full_precision(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class AttentionWatch(TorchFunctionMode):
    """Notices whether attention kernels are called while it is entered.

    Attributes:
        seen: Whether one was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Looks at the function and calls it."""
        self.seen = self.seen or func in (F.scaled_dot_product_attention, F.multi_head_attention_forward)
        return func(*args, **(kwargs or {}))


def _set_precision(values: dict[str, Any]) -> dict[str, Any]:
    """Sets how CUDA multiplies float32 numbers: as float32 where nothing is given. Returns what was set before."""
    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    name: str
    off: bool | str
    backends: dict[str, Any]
    if hasattr(cuda.matmul, "fp32_precision"):
        # From torch 2.9 on; the two kinds of settings must not be mixed.
        name, off, backends = "fp32_precision", "ieee", {"matmul": cuda.matmul, "conv": cudnn.conv, "rnn": cudnn.rnn}
    else:
        name, off, backends = "allow_tf32", False, {"matmul": cuda.matmul, "conv": cudnn}
    before = {kind: getattr(backend, name) for kind, backend in backends.items()}
    for kind, backend in backends.items():
        setattr(backend, name, values.get(kind, off))
    return before
