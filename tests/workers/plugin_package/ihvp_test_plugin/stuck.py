"""A plug-in whose first model hangs in native code that holds the interpreter: no thread of its process goes on."""

from __future__ import annotations

import ctypes
from pathlib import Path

from pydantic import BaseModel
from torch import nn


class Config(BaseModel):
    """A linear map.

    Attributes:
        stuck_once: A file; whoever finds it absent makes it and hangs.
        seconds: How long.
    """

    stuck_once: Path
    seconds: int = 600
    in_features: int
    out_features: int


config = Config


def build(config: Config) -> nn.Module:
    if not config.stuck_once.exists():
        config.stuck_once.touch()
        ctypes.PyDLL(None).sleep(config.seconds)
    return nn.Linear(config.in_features, config.out_features)
