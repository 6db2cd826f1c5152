"""Losses by name and by plug-in, as a worker takes them, against torch's own on the same points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.blobs.store import BlobStore
from ihvp.errors import IhvpError, LossMismatch, TargetsOutOfRange, UnknownLoss
from ihvp.models.losses import loss_names
from ihvp.models.spec import ModelSpec
from tests.workers.problems import Example, put_tensors
from workers.resolvers.model import LoadedModel, load_model

N = 12
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLASSES = torch.arange(N) % 3


@pytest.fixture
def installed(plugin_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin_site))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def load(blobs: BlobStore, y: Tensor, loss: Any, **data: Any) -> LoadedModel:
    config = {"in_features": 4, "hidden": [5], "out_features": 3, "activation": "tanh"}
    spec = Example({"type": "mlp", "config": config}, network(), X, y).upload(blobs, loss=loss)
    spec = ModelSpec.model_validate({**spec.model_dump(), "data": {**spec.data.model_dump(), "batch_size": 5, **data}})
    return load_model(blobs, spec, memory_budget=2**26)


def dense(model: LoadedModel) -> Tensor:
    return model.problem.hessian(1, 1)(torch.eye(model.num_params, dtype=torch.float64))


def expected(loss: Any) -> Tensor:
    """∇² of a mean loss as a function of the outputs, by double backward over all points at once."""
    module = network()
    parameters = list(module.parameters())
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(module(X)), parameters, create_graph=True)])
    rows = [
        torch.cat([r.reshape(-1) for r in torch.autograd.grad(g, parameters, retain_graph=True)]) for g in gradient
    ]
    return torch.stack(rows)


class TestMultiLabel:
    y = (torch.rand(N, 3, generator=torch.Generator().manual_seed(1)) > 0.5).long()

    @pytest.mark.parametrize("weight", [None, [3.0], [0.5, 1.0, 4.0]], ids=str)
    def test_several_labels_a_point(self, blobs: BlobStore, weight: list[float] | None) -> None:
        model = load(blobs, self.y, {"type": "bce_with_logits", "pos_weight": weight})
        given = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        H = expected(lambda o: F.binary_cross_entropy_with_logits(o, self.y.double(), pos_weight=given))
        torch.testing.assert_close(dense(model), H, rtol=1e-9, atol=1e-11)

    def test_sample_weights_count_with_them(self, blobs: BlobStore) -> None:
        w = torch.rand(N, dtype=torch.float64)
        loss = {"type": "bce_with_logits", "pos_weight": [2.0, 1.0, 1.0]}
        model = load(blobs, self.y, loss, weights=put_tensors(blobs, weights=w))
        given = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)

        def mean(o: Tensor) -> Tensor:
            each = F.binary_cross_entropy_with_logits(o, self.y.double(), pos_weight=given, reduction="none")
            return (w * each.mean(dim=1)).sum() / w.sum()

        torch.testing.assert_close(dense(model), expected(mean), rtol=1e-9, atol=1e-11)

    def test_what_does_not_fit(self, blobs: BlobStore) -> None:
        with pytest.raises(LossMismatch, match=r"Given: 2 numbers\. Allowed: 1 or 3"):
            load(blobs, self.y, {"type": "bce_with_logits", "pos_weight": [1.0, 2.0]})
        with pytest.raises(TargetsOutOfRange, match="in row 0, place"):
            load(blobs, self.y + 2, "bce_with_logits")


class TestTokens:
    def test_tokens_are_weighed_by_their_sequences_and_ignored_ones_do_not_count(self, blobs: BlobStore) -> None:
        from ihvp.models.architectures import TransformerLmConfig
        from workers.architectures import build_built_in

        torch.manual_seed(0)
        config = {"vocabulary": 5, "context": 4, "width": 4, "heads": 2, "layers": 1}
        module = build_built_in(TransformerLmConfig(**config))
        ids, targets = torch.randint(0, 5, (6, 4)), torch.randint(0, 5, (6, 4))
        targets[0, :3], targets[4] = -100, -100
        w = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 1.5], dtype=torch.float64)
        example = Example({"type": "transformer-lm", "config": config}, module, ids, targets)
        spec = example.upload(blobs, loss={"type": "cross_entropy", "ignore_index": -100})
        data = {**spec.data.model_dump(), "weights": put_tensors(blobs, weights=w), "batch_size": 4}
        spec = ModelSpec.model_validate({**spec.model_dump(), "data": data})
        loaded = load_model(blobs, spec, memory_budget=2**26)
        with torch.no_grad():
            logits = module.double()(ids)
            each = F.cross_entropy(logits.movedim(-1, 1), targets, ignore_index=-100, reduction="none")
            mean = (w[:, None] * each).sum() / (w[:, None] * (targets != -100)).sum()
        assert loaded.problem.mean_loss == pytest.approx(float(mean), rel=1e-12)


class TestPlugins:
    def test_installed_ones_are_named_among_the_losses(self, installed: None) -> None:
        assert loss_names() == [
            "cross_entropy", "mse", "bce_with_logits", "contrastive", "focal", "masked-squares", "no-loss",
        ]  # fmt: skip

    @pytest.mark.parametrize("gamma", [0.0, 2.0])
    def test_a_mean_over_points(self, blobs: BlobStore, installed: None, gamma: float) -> None:
        model = load(blobs, CLASSES, {"type": "focal", "config": {"gamma": gamma}})

        def focal(o: Tensor) -> Tensor:
            log_p = torch.log_softmax(o, dim=1)[torch.arange(N), CLASSES]
            return (-((1 - log_p.exp()) ** gamma) * log_p).mean()

        torch.testing.assert_close(dense(model), expected(focal), rtol=1e-8, atol=1e-10)

    def test_a_numerator_and_a_denominator(self, blobs: BlobStore, installed: None) -> None:
        y = torch.randn(N, 3, dtype=torch.float64)
        y[torch.rand(N, 3) > 0.7] = torch.nan
        w = torch.rand(N, dtype=torch.float64)
        model = load(blobs, y, "masked-squares", weights=put_tensors(blobs, weights=w))
        there = ~y.isnan()

        def squares(o: Tensor) -> Tensor:
            each = torch.where(there, o - y.nan_to_num(), 0.0).square()
            return (w[:, None] * each).sum() / (w[:, None] * there).sum()

        torch.testing.assert_close(dense(model), expected(squares), rtol=1e-9, atol=1e-11)
        gradients = model.gradients(
            blobs, _points(blobs, X[:2], y[:2])
        )  # a point's own loss is the loss on a batch of one
        assert gradients.shape == (2, model.num_params)

    @pytest.mark.parametrize(
        ("loss", "error", "message"),
        [
            ("hinge", UnknownLoss, "cross_entropy, mse, bce_with_logits, contrastive, focal"),
            ({"type": "focal", "config": {"gama": 1}}, LossMismatch, "gama: Extra inputs are not permitted"),
            ({"type": "focal", "config": {"gamma": -1}}, LossMismatch, "gamma is negative"),
            ("no-loss", LossMismatch, "built a object, not a torch.nn.Module"),
            ("contrastive", LossMismatch, "neither the mean nor the sum of its points' losses"),
        ],
    )
    def test_what_is_refused(
        self, blobs: BlobStore, installed: None, loss: Any, error: type[IhvpError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            load(blobs, CLASSES, loss)

    def test_one_that_is_not_installed_lists_what_is(self, blobs: BlobStore) -> None:
        with pytest.raises(UnknownLoss, match=r"Allowed: cross_entropy, mse, bce_with_logits\. .*ihvp\.losses"):
            load(blobs, CLASSES, "focal")


def _points(blobs: BlobStore, x: Tensor, y: Tensor) -> Any:
    from ihvp.jobs.submission import GradientOf

    return GradientOf(inputs=put_tensors(blobs, inputs=x), targets=put_tensors(blobs, targets=y))
