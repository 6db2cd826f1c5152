"""What ``submit`` and ``register_model`` accept is what the service's own models accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihvp.client.arguments import INLINE_ELEMENTS, Arguments
from ihvp.client.uploads import BlobSource, Upload
from ihvp.errors import InvalidInput, InvalidReference
from ihvp.jobs.submission import JobSubmission, RhsSpec
from ihvp.methods import Curvature, InversionMethod
from ihvp.models.spec import ModelSpec

DIGEST = "sha256:" + "a" * 64


class Uploads(dict[str, bytes]):
    """Blobs by digest, as a service would hold them."""

    def put(self, source: BlobSource) -> str:
        upload = Upload.of(source)
        self[upload.digest] = b"".join(upload.chunks())
        return upload.digest


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
def arguments(uploads: Uploads) -> Arguments:
    return Arguments(uploads.put)


def test_a_small_array_is_sent_inline_exactly(arguments: Arguments, uploads: Uploads) -> None:
    array = np.array([[0.1, 1e-38], [3.0, -0.0]], dtype=np.float32)
    sent = RhsSpec.model_validate(arguments.rhs(array))
    np.testing.assert_array_equal(np.asarray(sent.inline, dtype=np.float32), array)
    assert not uploads


@pytest.mark.parametrize(
    "array", [np.ones(INLINE_ELEMENTS + 1), np.array([1.0, np.nan]), np.zeros((0, 3))], ids=["large", "nan", "empty"]
)
def test_what_json_cannot_hold_well_goes_as_a_blob(
    arguments: Arguments, uploads: Uploads, array: np.ndarray[Any, Any]
) -> None:
    sent = RhsSpec.model_validate(arguments.rhs(array))
    assert sent.blob in uploads


def test_points_are_uploaded_wherever_they_are_arrays(arguments: Arguments, uploads: Uploads) -> None:
    data = {
        "inputs": {"input_ids": np.ones((3, 2), np.int64), "attention_mask": DIGEST + "#mask"},
        "targets": np.zeros(3, np.int64),
        "weights": np.ones(3),
        "index": range(2),
        "batch_size": 7,
    }
    fields = {"architecture": {"type": "theirs"}, "weights": DIGEST, "loss": "cross_entropy"}
    sent = ModelSpec.model_validate(arguments.model({**fields, "data": data}, {})).data
    assert isinstance(sent.inputs, dict)
    assert sent.inputs["input_ids"] in uploads
    assert sent.inputs["attention_mask"] == DIGEST + "#mask"
    assert {sent.targets, sent.weights} <= set(uploads)
    assert (sent.index, sent.batch_size) == ([0, 1], 7)
    points_of = {**{name: data[name] for name in ("inputs", "targets")}, "index": np.array([2])}
    points = RhsSpec.model_validate(arguments.rhs({"gradient_of": points_of}))
    assert points.gradient_of is not None
    assert points.gradient_of.index in uploads


def test_one_array_a_parameter_becomes_one_blob(arguments: Arguments, uploads: Uploads) -> None:
    sent = arguments.rhs({"0.weight": np.ones((2, 3)), "0.bias": np.zeros(2)})
    assert list(sent) == ["blob"]
    assert sent["blob"] in uploads


def test_gradient_points_may_be_arrays_or_references(arguments: Arguments, uploads: Uploads) -> None:
    sent = RhsSpec.model_validate(arguments.rhs({"gradient_of": {"inputs": np.ones((2, 3)), "targets": DIGEST}}))
    assert sent.gradient_of is not None
    assert sent.gradient_of.inputs in uploads
    assert sent.gradient_of.targets == DIGEST


def test_files_and_references_are_told_apart(arguments: Arguments, uploads: Uploads, tmp_path: Path) -> None:
    path = tmp_path / "b.npy"
    np.save(path, np.ones(3))
    assert arguments.rhs(str(path))["blob"] in uploads
    assert arguments.rhs(path)["blob"] in uploads
    for reference in (f"{DIGEST}#b", "s3://bucket/b.npy", "hf://org/repo@" + "a" * 40 + "/b.safetensors#b"):
        assert arguments.rhs(reference) == {"blob": reference}
    for wrong in ("sha256:abc", "ftp://host/b.npy", "hf://org/repo@main"):
        with pytest.raises(InvalidReference):
            arguments.rhs(wrong)
    with pytest.raises(FileNotFoundError):
        arguments.rhs(str(tmp_path / "missing.npy"))


def test_nothing_is_uploaded_where_the_service_fetches(arguments: Arguments, uploads: Uploads) -> None:
    document = arguments.model(
        {},
        {"weights": "s3://bucket/w.safetensors", "data": {"inputs": "https://host/d.npz#x", "targets": "file:///y"}},
    )
    pinned = {"s3://bucket/b.npy": {"size": 3}}
    rhs = arguments.rhs({"blob": "s3://bucket/b.npy", "sources": pinned})
    assert document["weights"] == "s3://bucket/w.safetensors"
    assert document["data"] == {"inputs": "https://host/d.npz#x", "targets": "file:///y"}
    assert rhs == {"blob": "s3://bucket/b.npy", "sources": pinned}
    assert uploads == {}


def test_a_spec_is_completed_by_fields_and_its_arrays_uploaded(arguments: Arguments, uploads: Uploads) -> None:
    architecture = {"type": "linear", "config": {"in_features": 2, "out_features": 1}}
    document = arguments.model(
        {"architecture": architecture, "loss": "cross_entropy"},
        {
            "weights": {"weight": np.ones((1, 2)), "bias": np.zeros(1)},
            "loss": "mse",
            "data": {"inputs": np.ones((3, 2)), "targets": np.ones((3, 1)), "batch_size": 7},
            "dtype": None,
        },
    )
    spec = ModelSpec.model_validate(document)
    assert spec.loss.type == "mse"
    assert spec.data.batch_size == 7
    assert set(spec.blob_digests()) == set(uploads)
    again = ModelSpec.model_validate(arguments.model(spec, {}))
    assert again.digest == spec.digest


def test_data_that_is_no_mapping_is_refused(arguments: Arguments) -> None:
    with pytest.raises(InvalidInput, match="inputs"):
        arguments.model({"data": np.ones(3)}, {})


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_inline_numbers_survive_the_trip_bit_for_bit(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    sent = RhsSpec.model_validate(Arguments(Uploads().put).rhs(array))
    assert np.asarray(sent.inline, dtype=np.float32).tobytes() == array.tobytes()


def test_a_submission_is_what_the_service_takes(arguments: Arguments) -> None:
    plain = JobSubmission.model_validate(arguments.submission(model="m", rhs=[1.0]))
    assert plain == JobSubmission.model_validate({"model": "m", "rhs": {"inline": [1.0]}})
    full = JobSubmission.model_validate(
        arguments.submission(
            model="m@1",
            rhs=[1.0],
            method=InversionMethod.Minres,
            hessian_perturbation={"*": 0.1, "2.*": 1},
            options={"rtol": 1e-3},
            curvature=Curvature.Ggn,
            influence=True,
            tags={"run": "1"},
            deadline_s=3,
            priority="low",
        )
    )
    assert (full.method, full.curvature) == ("minres", Curvature.Ggn)
    assert full.hessian_perturbation == {"*": 0.1, "2.*": 1.0}
    assert full.influence is not None
    assert (full.options, full.tags, full.deadline_s, full.priority.value) == ({"rtol": 1e-3}, {"run": "1"}, 3, "low")
    assert arguments.submission(model="m", rhs=[1.0], hessian_perturbation="auto")["hessian_perturbation"] == "auto"


def test_client_and_service_agree_on_what_a_submission_has() -> None:
    import inspect

    from ihvp import Client

    # The key is a header, and no part of what is submitted.
    for call in (Client.submit, Arguments.submission):
        assert set(inspect.signature(call).parameters) - {"self", "idempotency_key"} == set(JobSubmission.model_fields)
