"""A plug-in that asks for more memory than there is, as often as it is told to."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel
from torch import nn


class Config(BaseModel):
    """A linear map.

    Attributes:
        tries: A file that grows by a byte each time.
        times: How often.
    """

    tries: Path
    times: int
    in_features: int
    out_features: int


config = Config


def build(config: Config) -> nn.Module:
    with config.tries.open("ab") as tries:
        tries.write(b".")
    if config.tries.stat().st_size <= config.times:
        torch.empty(2**60, dtype=torch.uint8)
    return nn.Linear(config.in_features, config.out_features)
