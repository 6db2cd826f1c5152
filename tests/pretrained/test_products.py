"""Models of transformers: layout, loss and products are those of transformers itself, however points are batched."""

from __future__ import annotations

import json

import pytest
import torch

from tests.pretrained.conftest import Copy, Place
from tests.pretrained.models import train_and_save
from workers.resolvers.folder import ModelFiles

KINDS = ["distilbert", "bert", "gpt2", "llama", "vit"]
# transformers computes the norms of llama, and the loss of every language model, in float32 whatever the dtype is.
CLOSE = {"llama": 1e-6, "gpt2": 1e-6, "gemma2": 1e-5}


@pytest.mark.parametrize("kind", [*KINDS, "gemma2", "regression", "several labels"])
def test_layout_loss_and_products_are_transformers_own(place: Place, kind: str) -> None:
    saved = place.saved(kind)
    inspected = place.inspect(saved.spec())
    loaded = place.load(inspected.spec)
    told = [(entry.name, tuple(entry.shape)) for entry in inspected.layout]
    # What the API reads from headers, and what the worker solves on.
    assert told == loaded.layout
    assert [name for name, _ in told] == sorted(ModelFiles.of(saved.folder).weights())
    assert inspected.num_params == loaded.num_params == sum(p.numel() for p in saved.model.parameters())
    close = CLOSE.get(kind, 1e-12)
    assert loaded.problem.mean_loss == pytest.approx(float(saved.mean_loss()), rel=close)
    vector = torch.randn(loaded.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # The module's own names in the order of the layout.
    expected = saved.hessian_product(list(loaded.problem.snapshot.names), vector)
    product = loaded.problem.hessian(1, 1)(vector[None])[0]
    assert float((product - expected).norm() / expected.norm()) < close


@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_products_do_not_depend_on_the_batches(place: Place, kind: str) -> None:
    saved = place.saved(kind)
    products = []
    for size in (1, 5, 12):
        loaded = place.load(saved.spec(data=saved.data(batch_size=size)))
        vector = torch.randn(loaded.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        products.append(loaded.problem.hessian(1, 1)(vector[None])[0])
    for product in products[1:]:
        torch.testing.assert_close(product, products[0], rtol=1e-9, atol=1e-12)


def test_shards_and_a_config_beside_the_weights_are_the_same_model(place: Place) -> None:
    whole = place.saved("bert")
    shards = train_and_save("bert", place.root / "sharded", max_shard_size="10KB")
    assert (shards.folder / "model.safetensors.index.json").exists()
    config = ModelFiles.of(whole.folder).config()
    file = f"file://{whole.folder}/model.safetensors"
    beside = whole.spec(weights=file, architecture={"type": "transformers", "config": config})
    losses = {place.load(spec).problem.mean_loss for spec in (whole.spec(), shards.spec(), beside)}
    assert len(losses) == 1
    assert place.inspect(shards.spec()).layout == place.inspect(beside).layout == place.inspect(whole.spec()).layout


def test_a_part_of_the_parameters_and_a_loss_of_the_callers(place: Place) -> None:
    saved = place.saved("distilbert")
    loss = {"type": "cross_entropy", "label_smoothing": 0.1}
    spec = saved.spec(loss=loss, parameters={"include": ["classifier.*"]})
    loaded = place.load(spec)
    assert loaded.layout == [("classifier.bias", (4,)), ("classifier.weight", (4, 16))]
    with torch.no_grad():
        logits = saved.model(**saved.inputs).logits
    smoothed = torch.nn.functional.cross_entropy(logits, saved.labels, label_smoothing=0.1)
    assert loaded.problem.mean_loss == pytest.approx(float(smoothed), rel=1e-12)


def test_one_tensor_is_the_models_main_input(place: Place) -> None:
    saved = place.saved("vit")
    spec = saved.spec(data=saved.data(inputs=f"file://{saved.points}#pixel_values"))
    assert place.load(spec).problem.mean_loss == pytest.approx(float(saved.mean_loss()), rel=1e-12)


def test_how_somebody_ran_the_model_changes_nothing(place: Place, copy: Copy) -> None:
    saved = copy("distilbert")
    path = saved.folder / "config.json"
    ran = {
        "_attn_implementation": "kernels-community/nowhere",
        "attn_implementation": "flash_attention_2",
        "output_hidden_states": True,
        "return_dict": False,
        "torchscript": True,
        "torch_dtype": "bfloat16",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | ran))
    assert place.load(saved.spec()).problem.mean_loss == pytest.approx(float(saved.mean_loss()), rel=1e-12)


def test_the_attention_that_is_used_is_told(place: Place) -> None:
    assert "math kernel" in place.load(place.saved("distilbert").spec()).problem.description["attention"]
