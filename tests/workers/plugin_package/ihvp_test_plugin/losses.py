"""Losses as an operator would add them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    gamma: float = 2.0


class FocalLoss(nn.Module):
    """A mean over points; targets are classes."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_p = torch.log_softmax(outputs, dim=1).gather(1, targets[:, None])[:, 0]
        return (-((1 - log_p.exp()) ** self.gamma) * log_p).mean()


class Focal:
    config = Config

    @staticmethod
    def build(config: Config) -> nn.Module:
        if config.gamma < 0:
            raise ValueError("gamma is negative")
        return FocalLoss(config.gamma)


class Squares(nn.Module):
    """Squared errors of the numbers that are there, over how many there are."""

    def numerator(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets.isnan(), 0.0, outputs - targets.nan_to_num()).square().sum()

    def denominator(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (~targets.isnan()).sum()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.numerator(outputs, targets) / self.denominator(outputs, targets)


class MaskedSquares:
    config = Config

    @staticmethod
    def build(config: Config) -> nn.Module:
        return Squares()


class Pairs(nn.Module):
    """Compares the points of a batch with each other: no mean over points."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


class Contrastive:
    config = Config

    @staticmethod
    def build(config: Config) -> nn.Module:
        return Pairs()


class NoLoss:
    config = Config

    @staticmethod
    def build(config: Config) -> object:
        return object()
