"""A plug-in that fetches something while it builds its module."""

from __future__ import annotations

import urllib.request

from pydantic import BaseModel
from torch import nn


class Config(BaseModel):
    """A linear map.

    Attributes:
        url: What it asks for.
    """

    url: str
    in_features: int
    out_features: int


config = Config


def build(config: Config) -> nn.Module:
    with urllib.request.urlopen(config.url, timeout=5) as answer:
        answer.read()
    return nn.Linear(config.in_features, config.out_features)
