"""Scikit-learn's handwritten digits, and a small network trained on them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURE", "LAYERS", "Digits", "fit", "load_digits_split", "predict", "train_mlp"]

TRAINING_POINTS: Final = 1500
LAYERS: Final = (64, 64, 32, 10)
WEIGHT_DECAY: Final = 1e-3
ITERATIONS: Final = 200
ARCHITECTURE: Final = {
    "type": "mlp",
    "config": {
        "in_features": LAYERS[0],
        "hidden": list(LAYERS[1:-1]),
        "out_features": LAYERS[-1],
        "activation": "tanh",
    },
}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Digits:
    """Images ``[n, 64]`` (float32, 0 to 1) and labels ``[n]`` (int64), split once and for all."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


def load_digits_split(seed: int = 0) -> Digits:
    """The 1797 images that ship with scikit-learn, in a fixed random order: 1500 to train on, 297 to test on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images = (images[order] / 16.0).astype(np.float32)
    labels = labels[order].astype(np.int64)
    cut = TRAINING_POINTS
    return Digits(images[:cut], labels[:cut], images[cut:], labels[cut:])


def train_mlp(digits: Digits, seed: int = 0) -> dict[str, Array]:
    """Weights of an MLP near a minimum of its regularised loss, by parameter name; the same ones at each call."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    # Sums of floats depend on how they are shared among threads, and a model is its digest.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layers = [nn.Linear(width, out) for width, out in itertools.pairwise(LAYERS)]
        # The activations stand between the layers: 0 and 2 and 4 are the linear ones, as the service names them.
        model = nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())][:-1])
        fit(model, digits, ITERATIONS)
    finally:
        torch.set_num_threads(threads)
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def fit(model: nn.Module, digits: Digits, iterations: int) -> None:
    """Brings a network near a minimum of its regularised loss on the training digits.

    There H + λI is positive definite for a small λ; first-order steps stop far from it.
    """
    import torch

    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        decay = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
        value = torch.nn.functional.cross_entropy(model(images), labels) + 0.5 * WEIGHT_DECAY * decay
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]


def predict(weights: dict[str, Array], images: Array) -> Array:
    """Log-probabilities ``[n, 10]`` of the trained network, in plain numpy."""
    from scipy.special import log_softmax  # type: ignore[import-untyped]

    hidden = images
    layers = sorted({int(name.split(".")[0]) for name in weights})
    for layer in layers:
        hidden = hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        if layer != layers[-1]:
            hidden = np.tanh(hidden)
    result: Array = log_softmax(hidden, axis=1)
    return result
