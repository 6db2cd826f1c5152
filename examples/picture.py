"""The demo's picture: test digits beside the training images that helped and harmed the network most on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Neighbour", "TestDigit", "draw"]

INK: Final = "#22303c"
HELPFUL: Final = "#1a7f5a"
HARMFUL: Final = "#c0392b"
TEST: Final = "#34618f"

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Neighbour:
    """A training image and its influence score."""

    image: Array
    label: int
    score: float


@dataclass(frozen=True)
class TestDigit:
    """A test image, what it shows, what the network says, and the training images that matter most for it."""

    image: Array
    label: int
    predicted: int
    confidence: float
    helpful: Sequence[Neighbour]
    harmful: Sequence[Neighbour]


def draw(digits: Sequence[TestDigit], path: Path) -> None:
    """Writes the picture as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.gridspec import GridSpec

    shown = len(digits[0].helpful)
    gap = [0.35]
    widths = [1.0, *gap, *[1.0] * shown, *gap, *[1.0] * shown]
    figure = plt.figure(figsize=(11.0, 1.8 * len(digits) + 1.3), dpi=120, facecolor="white")
    grid = GridSpec(
        len(digits), len(widths), figure=figure, width_ratios=widths,
        left=0.02, right=0.98, top=1 - 1.3 / figure.get_figheight(), bottom=0.015, hspace=0.5, wspace=0.12,
    )  # fmt: skip
    first_helpful, first_harmful = 2, 3 + shown
    for row, digit in enumerate(digits):
        verdict = f"label {digit.label}\nnetwork says {digit.predicted} ({digit.confidence:.0%})"
        _image(figure.add_subplot(grid[row, 0]), digit.image, verdict, TEST)
        for column, neighbour in enumerate(digit.helpful):
            axes = figure.add_subplot(grid[row, first_helpful + column])
            _image(axes, neighbour.image, f"label {neighbour.label}\nscore {_signed(neighbour.score)}", HELPFUL)
        for column, neighbour in enumerate(digit.harmful):
            axes = figure.add_subplot(grid[row, first_harmful + column])
            _image(axes, neighbour.image, f"label {neighbour.label}\nscore {_signed(neighbour.score)}", HARMFUL)
    _headline(figure, "Which training images made the network see these test digits as it does?", 0.5, 0.34, INK, 15)
    for (first, last), text, colour in (
        ((0, 0), "Test image", TEST),
        ((first_helpful, first_helpful + shown - 1), "Most helpful training images", HELPFUL),
        ((first_harmful, first_harmful + shown - 1), "Most harmful training images", HARMFUL),
    ):
        left = grid[0, first].get_position(figure).x0
        right = grid[0, last].get_position(figure).x1
        _headline(figure, text, (left + right) / 2, 0.76, colour, 12)
    figure.savefig(path)
    plt.close(figure)


def _headline(figure: Any, text: str, x: float, inches_down: float, colour: str, size: int) -> None:
    y = 1 - inches_down / figure.get_figheight()
    figure.text(x, y, text, ha="center", va="center", color=colour, fontsize=size, fontweight="bold")


def _image(axes: Axes, image: Array, title: str, colour: str) -> None:
    axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title(title, fontsize=9.5, color=INK, pad=4)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(colour)
        side.set_linewidth(2.0)


def _signed(score: float) -> str:
    return f"{score:+.{0 if abs(score) >= 10 else 2}f}".replace("-", "−")
