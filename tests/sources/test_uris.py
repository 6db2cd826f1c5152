"""References to files are read strictly: what is not written as one is refused with how to write it."""

from __future__ import annotations

import pytest

from ihvp.errors import InvalidReference
from ihvp.references import TensorName
from ihvp.sources.uri import BucketUri, HuggingFaceUri, MlflowUri, check_source_uri, file_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "uri",
    [
        "file:///models/w.safetensors",
        "file://localhost/models/a%20b.npy",
        "https://data.example.org/x.npy?version=3",
        "http://10.0.0.7:9000/x.npy",
        "s3://my-bucket/folder/w.safetensors",
        "gs://my-bucket/x.npy",
        f"hf://org/repo@{COMMIT}",
        f"hf://datasets/org/repo@{COMMIT}/data/train.parquet",
        "mlflow://models/churn/3",
        "mlflow://models/churn@champion/weights.safetensors",
    ],
)
def test_what_is_a_reference_to_a_file(uri: str) -> None:
    assert check_source_uri(uri) == uri
    assert TensorName.parse(f"{uri}#inputs") == TensorName(uri, "inputs")
    assert TensorName.parse(uri).digest is None


@pytest.mark.parametrize(
    "uri",
    [
        "file://models/w.safetensors",
        "file:///models/../etc/passwd",
        "file:///models/%2e%2e/etc/passwd",
        "file:///models/w%00.npy",
        "ftp://host/x.npy",
        "https:///x.npy",
        "https://user:secret@host/x.npy",
        "https://host:0/x",
        "https://host/a b",
        "s3://b/key",
        "s3://bucket",
        "s3://bucket/../other/key",
        "s3://Bucket/key",
        "mlflow://runs/1/a",
        "mlflow://models/churn",
        "mlflow://models/churn/latest",
        "mlflow://models/churn/3/../../4",
        "hf://org/repo",
        "hf://repo@" + COMMIT,
        f"hf://org/repo@{COMMIT}/../x",
        "https://host/" + "x" * 3000,
    ],
)
def test_what_is_none(uri: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        TensorName.parse(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@" + COMMIT[:39], "@" + COMMIT.upper()])
def test_a_branch_is_refused_with_how_to_find_the_commit(revision: str) -> None:
    with pytest.raises(InvalidReference, match=r"git ls-remote https://huggingface\.co/org/repo HEAD"):
        check_source_uri(f"hf://org/repo{revision}")


def test_what_references_say() -> None:
    assert file_path("file:///a%20b/c%23d.npy") == "/a b/c#d.npy"
    assert BucketUri.parse("s3://my-bucket/a/b") == BucketUri("s3", "my-bucket", "a/b")
    assert HuggingFaceUri.parse(f"hf://datasets/o/r@{COMMIT}/a/b") == HuggingFaceUri("datasets", "o/r", COMMIT, "a/b")
    assert MlflowUri.parse("mlflow://models/churn/3/a/b") == MlflowUri("churn", 3, None, "a/b")
    assert MlflowUri.parse("mlflow://models/churn@champion") == MlflowUri("churn", None, "champion", "")
