"""Random numbers that belong to a point, whichever chunk it is in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from solvers.losses.likelihood import Uniform

__all__ = ["uniform_of_points"]

STEP = 0x9E3779B97F4A7C15
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def uniform_of_points(seed: int, first_point: int, device: torch.device) -> Uniform:
    """Uniform numbers that are a function of the seed, the point's place in the data, and the place in the point.

    A generator would tie them to how the data are cut into chunks; these are hashed, by the finaliser of
    SplitMix64 (Steele, Lea & Flood, 2014).

    Args:
        seed: Another seed gives other numbers.
        first_point: Place in the data of the first row that is asked for.
        device: Where the numbers are wanted.
    """

    def uniform(shape: Sequence[int]) -> Tensor:
        points = torch.arange(first_point, first_point + shape[0], device=device)
        of_point = _mixed(_mixed(points * _signed(STEP) + _signed(seed)))
        places = torch.arange(1, math.prod(shape[1:]) + 1, device=device) * _signed(STEP)
        bits = _mixed(of_point[:, None] + places)
        # 52 bits and a half: neither 0 nor 1, exactly.
        return ((_shifted(bits, 12).double() + 0.5) / 2.0**52).reshape(tuple(shape))

    return uniform


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(FACTORS[0])
    x = (x ^ _shifted(x, 27)) * _signed(FACTORS[1])
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The 64-bit number with the same bits, as torch holds it."""
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x
