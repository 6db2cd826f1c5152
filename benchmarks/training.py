"""Trains the network of a row and takes the right-hand sides: gradients of the loss at test points."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.problem_files import build_module, write_problem
from benchmarks.rows import COUNTS, Row

__all__ = ["prepare_problem", "text_windows"]

DOCUMENTED: Final = ("argparse", "asyncio", "decimal", "difflib", "doctest", "email", "json", "logging", "pathlib")
"""Modules whose documentation strings are the text."""
WORDS: Final = ("name", "title", "why")
"""What of a row is for readers only."""


def prepare_problem(row: Row, folder: Path) -> None:
    """Writes the row's problem to ``folder`` unless it is there, made as the row says now."""
    made_of = json.dumps({name: value for name, value in asdict(row).items() if name not in WORDS}, sort_keys=True)
    record = folder / "row.json"
    if record.exists() and record.read_text(encoding="utf-8") == made_of:
        return
    x, y = _data(row)
    cut = row.points
    module = _trained(row, x[:cut], y[:cut])
    rhs = _gradients(module, x[cut:], y[cut:], 2 * max(COUNTS))
    write_problem(folder, row.architecture, module, x[:cut], y[:cut], row.damping, rhs)
    record.write_text(made_of, encoding="utf-8")


def text_windows(length: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Windows of ASCII characters and, for each place, the character that follows: two times ``[count, length]``."""
    documentation = [
        text
        for name in DOCUMENTED
        for member in [importlib.import_module(name), *vars(importlib.import_module(name)).values()]
        if isinstance(text := getattr(member, "__doc__", None), str)
    ]
    text = "\n".join(dict.fromkeys(documentation))
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64)
    starts = np.random.default_rng(seed).permutation(len(codes) // length - 1)[:count] * length
    places = torch.from_numpy(starts[:, None] + np.arange(length + 1))
    windows = torch.from_numpy(codes)[places]
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def _data(row: Row) -> tuple[Tensor, Tensor]:
    """Training points first, then at least as many test points as there are right-hand sides."""
    if row.data == "text":
        return text_windows(row.architecture["config"]["context"], row.points + 2 * max(COUNTS))
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.from_numpy((images[order] / 16.0).astype(np.float32))
    if row.data == "digit-images":
        x = x.reshape(-1, 1, 8, 8)
    return x, torch.from_numpy(labels[order].astype(np.int64))


def _trained(row: Row, x: Tensor, y: Tensor) -> nn.Module:
    """Near a minimum of the regularised loss H + λI is positive definite; first-order steps stop far from it."""
    torch.manual_seed(0)
    module = build_module(row.architecture)
    parameters = list(module.parameters())
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=row.training_steps, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        decay = torch.stack([p.square().sum() for p in parameters]).sum()
        value = nn.functional.cross_entropy(module(x), y) + 0.5 * row.weight_decay * decay
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return module.eval()


def _gradients(module: nn.Module, x: Tensor, y: Tensor, count: int) -> Tensor:
    """``[count, p]`` in float64, at the weights as float32 holds them."""
    module = module.double()
    parameters = list(module.parameters())
    rows = []
    with sdpa_kernel(SDPBackend.MATH):
        for i in range(count):
            point = x[i : i + 1]
            output = module(point.double() if point.is_floating_point() else point)
            loss = nn.functional.cross_entropy(output, y[i : i + 1])
            rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    module.float()
    return torch.stack(rows)
