"""Where a worker solves. Only its pool child asks: a CUDA context does not survive a fork."""

from __future__ import annotations

import torch

from ihvp.errors import SetupError

__all__ = ["solving_device"]


def solving_device(name: str) -> torch.device:
    """The device of this name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, …; ``auto`` for a GPU where there is one.

    Raises:
        SetupError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= there:
            raise SetupError(
                "The worker is set to solve on a device that its machine does not have.",
                given=f"IHVP_DEVICE={name}",
                allowed="cpu, auto" + "".join(f", cuda:{i}" for i in range(there)),
                hint="Set IHVP_DEVICE, and look whether torch is built for CUDA.",
            )
        return torch.device("cuda", device.index or 0)
    return device
