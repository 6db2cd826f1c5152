"""Folders and points that do not do: refused where it can be seen, with a code and a word on what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ihvp.errors import (
    DataMismatch,
    IhvpError,
    InvalidArchitecture,
    LossMismatch,
    PickleRefused,
    RemoteCodeRefused,
    TargetsOutOfRange,
    UnknownArchitecture,
    WeightsMismatch,
)
from ihvp.models.spec import ModelSpec
from tests.pretrained.conftest import Copy, Place
from tests.pretrained.models import Saved, train_and_save

Damage = Callable[[Saved], None]


def _config(**changes: Any) -> Damage:
    def damage(saved: Saved) -> None:
        path = saved.folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(saved: Saved) -> None:
        path = saved.folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


def _pickled(saved: Saved) -> None:
    (saved.folder / "model.safetensors").rename(saved.folder / "pytorch_model.bin")


def _without(name: str) -> Damage:
    return lambda saved: (saved.folder / name).unlink()


def _points(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(saved: Saved) -> None:
        tensors = load_file(saved.points)
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, saved.points)

    return damage


def _with(at: tuple[int, ...], value: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed[at] = value
        return changed

    return change


AT_THE_API: dict[str, tuple[Damage, type[IhvpError], str]] = {
    "remote code": (_config(auto_map={"AutoModel": "evil.Model"}), RemoteCodeRefused, "remove 'auto_map'"),
    "code within": (_config(nested={"custom_code": True}), RemoteCodeRefused, "no code of a caller's"),
    "no task": (_config(architectures=["DistilBertModel"]), InvalidArchitecture, "ForSequenceClassification"),
    "quantised": (_config(quantization_config={"bits": 4}), InvalidArchitecture, "dequantised"),
    "no config": (_without("config.json"), InvalidArchitecture, "config.json cannot be read"),
    "a pickle only": (_pickled, PickleRefused, "save_pretrained"),
    "no weights": (_without("model.safetensors"), WeightsMismatch, "holds no weights"),
    "a token outside": (_points("input_ids", _with((1, 2), 100_000)), DataMismatch, "100000 at [1, 2]"),
    "a class outside": (_points("labels", _with((3,), 4)), TargetsOutOfRange, "0 to 3"),
    "a mask of another shape": (_points("attention_mask", lambda t: t[:, :-1]), DataMismatch, "attention_mask"),
    "too long": (_config(max_position_embeddings=19), DataMismatch, "at most 19"),
    "several targets": (_points("labels", lambda t: t.repeat(2, 1).T), LossMismatch, "do not have the shape"),
}
AT_THE_WORKER: dict[str, tuple[Damage, type[IhvpError], str]] = {
    "an unknown type": (_config(model_type="not-a-model"), UnknownArchitecture, "not-a-model"),
    "another class": (_config(architectures=["BertForSequenceClassification"]), UnknownArchitecture, "DistilBert"),
    "no sense": (_config(n_heads=3), InvalidArchitecture, "does not describe"),
    "other widths": (_config(hidden_dim=32), WeightsMismatch, "has shape [16, 16] instead of [32, 16]"),
    "more layers": (_config(n_layers=2), WeightsMismatch, "is missing"),
    "a million layers": (_config(n_layers=1_000_000), WeightsMismatch, "more layers"),
    "a tensor less": (_weights(lambda t: t.pop("classifier.bias")), WeightsMismatch, "classifier.bias is missing"),
    "a tensor more": (_weights(lambda t: t.update(extra=torch.ones(2))), WeightsMismatch, "extra is no parameter"),
    "a mask of threes": (_points("attention_mask", _with((0, 0), 3)), DataMismatch, "attention_mask"),
}


@pytest.mark.parametrize("case", AT_THE_API)
def test_what_the_api_refuses(place: Place, copy: Copy, case: str) -> None:
    damage, error, says = AT_THE_API[case]
    saved = copy("distilbert")
    damage(saved)
    with pytest.raises(error) as raised:
        place.inspect(saved.spec())
    assert says in str(raised.value)


@pytest.mark.parametrize("case", AT_THE_WORKER)
def test_what_the_worker_refuses(place: Place, copy: Copy, case: str) -> None:
    damage, error, says = AT_THE_WORKER[case]
    saved = copy("distilbert")
    damage(saved)
    with pytest.raises(error) as raised:
        place.load(saved.spec())
    assert says in str(raised.value)


SEEN_BY_BOTH = ["a token outside", "a class outside", "a mask of another shape", "several targets", "remote code"]


@pytest.mark.parametrize("case", SEEN_BY_BOTH)
def test_the_worker_refuses_what_the_api_cannot_always_see(place: Place, copy: Copy, case: str) -> None:
    damage, error, _ = AT_THE_API[case]
    saved = copy("distilbert")
    damage(saved)
    spec = ModelSpec.model_validate(saved.spec())
    pins = {f"file://{path}": _pin(place, path) for path in [*saved.folder.iterdir(), saved.points]}
    with pytest.raises(error):
        place.load(spec.model_copy(update={"sources": pins}))


def _pin(place: Place, path: Path) -> Any:
    from ihvp.sources.sources import Sources

    return Sources.to_look(place.settings).pin(f"file://{path}")


def test_an_index_that_lies(place: Place) -> None:
    saved = train_and_save("bert", place.root / "index", max_shard_size="10KB")
    index = saved.folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    first, last = min(document["weight_map"].values()), max(document["weight_map"].values())

    def refused(says: str) -> None:
        with pytest.raises(WeightsMismatch, match=says):
            place.inspect(saved.spec())

    moved = {**document["weight_map"], "classifier.bias": first}
    index.write_text(json.dumps({**document, "weight_map": moved}))
    refused("classifier.bias")
    index.write_text(json.dumps({**document, "weight_map": {**moved, "classifier.bias": "../other.safetensors"}}))
    refused("names a file that is no shard")
    index.write_text(json.dumps(document))
    (saved.folder / last).unlink()
    refused("not in the folder")


def test_inputs_that_the_model_does_not_take(place: Place) -> None:
    saved = place.saved("distilbert")
    data = saved.data()
    with pytest.raises(DataMismatch, match="Labels are the targets"):
        place.load(saved.spec(data={**data, "inputs": {**data["inputs"], "labels": data["targets"]}}))
    with pytest.raises(DataMismatch, match="main input is missing"):
        place.inspect(saved.spec(data={**data, "inputs": {"attention_mask": data["inputs"]["attention_mask"]}}))


def test_a_language_model_takes_cross_entropy_and_a_label_for_each_token(place: Place, copy: Copy) -> None:
    saved = copy("gpt2")
    with pytest.raises(LossMismatch, match="predicts classes"):
        place.inspect(saved.spec(loss="mse"))
    _points("labels", lambda t: t[:, 1:])(saved)
    with pytest.raises(LossMismatch, match="stand where their tokens do"):
        place.inspect(saved.spec())


def test_a_file_of_weights_without_a_config(place: Place) -> None:
    saved = place.saved("distilbert")
    with pytest.raises(InvalidArchitecture, match=r"config\.json of a model of transformers may be sent"):
        place.inspect(saved.spec(weights=f"file://{saved.folder}/model.safetensors"))
