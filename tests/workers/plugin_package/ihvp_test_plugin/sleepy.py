"""A plug-in that never has its module ready."""

from __future__ import annotations

import threading

from pydantic import BaseModel
from torch import nn


class Config(BaseModel):
    in_features: int
    out_features: int


config = Config


def build(config: Config) -> nn.Module:
    threading.Event().wait()
    raise AssertionError("that was for ever")
