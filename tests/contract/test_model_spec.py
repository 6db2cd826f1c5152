"""A model's spec: one digest for one meaning, layouts that add up, clear refusals."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ihvp.errors import InvalidArchitecture, LossMismatch, UnknownArchitecture, UnknownLoss, UnknownParameters
from ihvp.models.architectures import parse_architecture
from ihvp.models.losses import LossSpec, check_loss
from ihvp.models.spec import ModelSpec, build_layout

DIGEST = "sha256:" + "0" * 64


def spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "architecture": {"type": "linear", "config": {"in_features": 2, "out_features": 3}},
        "weights": DIGEST,
        "loss": "cross_entropy",
        "data": {"inputs": DIGEST, "targets": DIGEST},
    }
    return ModelSpec.model_validate(fields | changes)


def test_a_loss_by_name_means_the_same_as_by_type() -> None:
    assert spec().digest == spec(loss={"type": "cross_entropy"}).digest


def test_defaults_written_out_keep_the_digest() -> None:
    assert spec().digest == spec(dtype="float32", parameters={"include": ["*"]}).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float64"},
        {"loss": "mse"},
        {"parameters": {"include": ["weight"]}},
        {"weights": "sha256:" + "1" * 64},
    ],
)
def test_another_meaning_has_another_digest(changes: dict[str, Any]) -> None:
    assert spec().digest != spec(**changes).digest


def test_a_spec_of_the_first_version_keeps_its_digest() -> None:
    assert spec().digest == "sha256:d633a5951d3c699ac435213c6e28b4e654b104fe0390dca330a8cb372f700250"


def test_what_is_pinned_otherwise_has_another_digest() -> None:
    uri = "https://data.example.org/x.npy"
    pinned = [spec(weights=uri, sources={uri: {"size": 3, "etag": etag}}).digest for etag in ("a", "b")]
    assert len({*pinned, spec(weights=uri).digest}) == 3


def test_blobs_and_other_files_are_told_apart() -> None:
    found = spec(weights="s3://bucket/w.safetensors", data={"inputs": "file:///d.npz#x", "targets": f"{DIGEST}#y"})
    assert found.blob_digests() == [DIGEST]
    assert found.source_uris() == ["s3://bucket/w.safetensors", "file:///d.npz"]


def test_an_unknown_loss_lists_the_known_ones() -> None:
    with pytest.raises(UnknownLoss, match=r"Given: hinge\. Allowed: cross_entropy, mse, bce_with_logits"):
        check_loss(LossSpec(type="hinge"))
    check_loss(LossSpec(type="hinge"), extra=("hinge",))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "mse", "label_smoothing": 0.1}, "Only cross_entropy has label_smoothing"),
        ({"type": "bce_with_logits", "ignore_index": 0}, "ignore_index"),
        ({"type": "cross_entropy", "pos_weight": [2.0]}, "Only bce_with_logits has pos_weight"),
        ({"type": "mse", "config": {"delta": 1}}, "Only plug-ins have a config"),
    ],
)
def test_options_of_another_loss_are_refused(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(LossMismatch, match=message):
        check_loss(LossSpec.model_validate(loss))


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0], [float("inf")], ["1"] * 10_001])
def test_positive_weights_are_positive(weights: Any) -> None:
    with pytest.raises(ValidationError):
        LossSpec(type="bce_with_logits", pos_weight=weights)


def test_fields_that_came_later_change_the_digest_only_where_they_are_used() -> None:
    plain = spec(data={"inputs": DIGEST, "targets": DIGEST, "weights": None, "index": None}, loss="bce_with_logits")
    assert (
        plain.digest == "sha256:88b4c3693b72e941657a5717521a41f4c79edd8dd034d4c7af36f0a41c5126c5"
    )  # as it was before
    used = [
        spec(data={"inputs": DIGEST, "targets": DIGEST, "weights": DIGEST}),
        spec(data={"inputs": DIGEST, "targets": DIGEST, "index": [0, 1]}),
        spec(data={"inputs": DIGEST, "targets": DIGEST, "index": [1, 0]}),
        spec(data={"inputs": {"x": DIGEST}, "targets": DIGEST}),
        spec(loss={"type": "bce_with_logits", "pos_weight": [2.0]}),
        spec(loss={"type": "theirs", "config": {"a": 1}}),
    ]
    assert len({each.digest for each in (plain, *used)}) == 1 + len(used)


def test_every_reference_is_listed() -> None:
    other = ["sha256:" + digit * 64 for digit in "12345"]
    data = {
        "inputs": {"a": other[0], "b": f"{other[1]}#c"},
        "targets": other[2],
        "weights": other[3],
        "index": other[4],
    }
    assert sorted(spec(data=data).blob_digests()) == sorted([DIGEST, *other])


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        spec(wieghts=DIGEST)


def test_layout_offsets_follow_each_other() -> None:
    layout = build_layout([("a", (2, 3)), ("b", ()), ("c", (4,))], ["*"])
    assert [(e.name, e.offset, e.shape) for e in layout] == [("a", 0, [2, 3]), ("b", 6, []), ("c", 7, [4])]


def test_layout_of_a_subset_is_dense() -> None:
    layout = build_layout([("0.weight", (2, 3)), ("0.bias", (3,)), ("2.weight", (5,))], ["*.weight"])
    assert [(e.name, e.offset) for e in layout] == [("0.weight", 0), ("2.weight", 6)]


def test_a_pattern_that_matches_nothing_lists_the_names() -> None:
    with pytest.raises(UnknownParameters, match=r"Given: head\.\*.*weight, bias"):
        build_layout([("weight", (2,)), ("bias", (1,))], ["*", "head.*"])


def test_an_unknown_architecture_lists_those_offered() -> None:
    with pytest.raises(
        UnknownArchitecture, match=r"Given: resnet50.*cnn, linear, mlp, transformer-lm.*ihvp\.architectures"
    ):
        parse_architecture("resnet50", {})


def test_an_operators_extra_architecture_is_left_to_its_worker() -> None:
    assert parse_architecture("resnet50", {"depth": 50}, extra=("resnet50",)) is None


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("linear", {"in_features": 2}, "out_features: Field required"),
        ("mlp", {"in_features": 2, "hidden": [0], "out_features": 1}, "every width"),
        ("mlp", {"in_features": 2, "hidden": [4], "out_features": 1, "activation": "swish"}, "activation"),
        ("cnn", {"in_channels": 1, "height": 2, "width": 2, "channels": [4, 4], "out_features": 2}, "leave nothing"),
        (
            "transformer-lm",
            {"vocabulary": 9, "context": 4, "width": 10, "heads": 3, "layers": 1},
            "multiple of 'heads'",
        ),
    ],
)
def test_a_config_that_describes_no_module(kind: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message):
        parse_architecture(kind, config)
