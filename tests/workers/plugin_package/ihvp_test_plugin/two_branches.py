"""A module plug-in: two linear maps of the same input, multiplied."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    in_features: int
    out_features: int


class TwoBranches(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.left = nn.Linear(config.in_features, config.out_features)
        self.right = nn.Linear(config.in_features, config.out_features)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.left(x)) * self.right(x))


config = Config


def build(config: Config) -> nn.Module:
    if config.out_features > 1000:
        raise RuntimeError("that is more than this module can do")
    return TwoBranches(config)
