"""Loss and gradient at the first training points, as every result tells them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ihvp.blobs.filesystem import FilesystemBlobStore
from tests.workers.bench import Bench, points
from tests.workers.problems import Example, job_request, softmax_regression
from workers.resolvers.model import load_model


def test_it_is_torchs_loss_and_gradient_at_the_first_eight_points(bench: Bench, digits: Example) -> None:
    job = bench.run(job_request(digits.upload(bench.blobs), digits.num_params, points(bench, digits, 1)))
    checked = bench.document(job).info.loss_check
    assert checked is not None
    x, y, flat = digits.x[:8].double(), digits.y[:8], digits.flat
    assert checked.points == 8
    assert checked.mean_loss == pytest.approx(float(digits.mean_loss(flat, x, y)), rel=1e-9)
    gradient = torch.func.grad(lambda v: digits.mean_loss(v, x, y))(flat)
    assert checked.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-9)
    assert checked.uninformed_loss == pytest.approx(math.log(10))
    assert checked.mean_loss < checked.uninformed_loss, "these digits were trained on"


def test_targets_that_do_not_count_do_not_count_and_few_points_are_all_of_them(tmp_path: Path) -> None:
    blobs = FilesystemBlobStore(tmp_path)
    example = softmax_regression(5, 4, 3)
    example.y[1] = 7
    spec = example.upload(blobs, loss={"type": "cross_entropy", "ignore_index": 7})
    checked = load_model(blobs, spec, memory_budget=10**8).loss_check
    kept = [0, 2, 3, 4]
    expected = nn.functional.cross_entropy(example.module.double()(example.x[kept].double()), example.y[kept])
    assert checked["points"] == 5
    assert checked["mean_loss"] == pytest.approx(float(expected.detach()), rel=1e-9)
