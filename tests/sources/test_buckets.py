"""Objects of S3, on moto's server: pinned, read by ranges, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ihvp.errors import (
    SourceChanged,
    SourceForbidden,
    SourceNotAllowed,
    SourceNotFound,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from ihvp.settings import Settings
from ihvp.sources.buckets import connected
from ihvp.sources.pinning import pin_references, pinned_folder
from ihvp.sources.sources import Sources
from tests.places import Places
from tests.sources.web_server import WebServer

BUCKET = "s3://open-bucket"
DATA = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def s3(places: Places) -> Any:
    """A client of moto's server, whose address and keys the environment holds as it does in production."""
    places.s3.create_bucket(Bucket="open-bucket")
    places.s3.create_bucket(Bucket="other-bucket")
    return places.s3


@pytest.fixture(autouse=True)
def of_its_environment() -> Iterator[None]:
    """Each test's environment names another store, as each process' does."""
    connected.cache_clear()
    yield
    connected.cache_clear()


@pytest.fixture
def opened(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, source_buckets=("s3://open-bucket", "s3://other-bucket/public"), max_source_bytes=2_000_000
    )


@pytest.fixture
def sources(opened: Settings) -> Sources:
    return Sources.to_look(opened)


def put(s3: Any, key: str, data: bytes, bucket: str = "open-bucket") -> str:
    s3.put_object(Bucket=bucket, Key=key, Body=data)
    return f"s3://{bucket}/{key}"


def test_an_object_is_pinned_and_read_in_parts(s3: Any, sources: Sources) -> None:
    put(s3, "a b/x#1.npy", DATA)
    uri = f"{BUCKET}/a%20b/x%231.npy"
    pin = sources.pin(uri)
    assert (pin.size, pin.sha256) == (len(DATA), None)
    assert pin.etag
    with sources.open(uri, pin) as file:
        assert file.read(4) == DATA[:4]
        file.seek(-5, 2)
        assert file.read() == DATA[-5:]
        file.seek(0)
        assert file.read() == DATA


def test_a_folder_becomes_the_files_that_are_needed(s3: Any, sources: Sources) -> None:
    for name in ("config.json", "model 1.safetensors", "pytorch_model.bin", "below/train.parquet"):
        put(s3, f"model/{name}", b"12")
    assert sources.is_folder(f"{BUCKET}/model")
    pins = pin_references([f"{BUCKET}/model"], {}, sources)
    found = pinned_folder(f"{BUCKET}/model", pins)
    assert sorted(found) == ["below/train.parquet", "config.json", "model 1.safetensors"]
    assert sources.pin(found["model 1.safetensors"]).size == 2
    assert not sources.is_folder(f"{BUCKET}/model/config.json")


def test_an_object_that_has_changed(s3: Any, sources: Sources) -> None:
    uri = put(s3, "x.npy", DATA)
    pin = sources.pin(uri)
    put(s3, "x.npy", DATA[::-1])
    with pytest.raises(SourceChanged, match="Submit the job again"):
        sources.open(uri, pin)


def test_an_object_that_changes_while_it_is_read(s3: Any, sources: Sources) -> None:
    uri = put(s3, "x.npy", DATA)
    with sources.open(uri, sources.pin(uri)) as file:
        assert file.read(100) == DATA[:100]
        put(s3, "x.npy", DATA[::-1])
        file.seek(600_000)
        with pytest.raises(SourceChanged):
            file.read()


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        (f"{BUCKET}/missing.npy", SourceNotFound),
        ("s3://third-bucket/x.npy", SourceNotAllowed),
        ("s3://other-bucket/private/x.npy", SourceNotAllowed),
        ("s3://other-bucket/publicity/x.npy", SourceNotAllowed),
        ("s3://open-bucket-2/x.npy", SourceNotAllowed),
        ("gs://open-bucket/x.npy", SourceNotAllowed),
    ],
)
def test_what_is_refused(s3: Any, sources: Sources, uri: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        sources.pin(uri)


def test_an_object_that_is_too_large(s3: Any, sources: Sources) -> None:
    with pytest.raises(SourceTooLarge):
        sources.pin(put(s3, "large.npy", bytes(2_000_001)))


def test_a_store_that_denies(web: WebServer, opened: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    web.statuses["/open-bucket/x.npy"] = 403
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SourceForbidden, match="operator gives credentials"):
        Sources.to_look(opened).pin(f"{BUCKET}/x.npy")


def test_a_process_without_credentials(s3: Any, opened: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SourceForbidden, match="operator gives credentials"):
        Sources.to_look(opened).pin(f"{BUCKET}/x.npy")


def test_a_store_that_is_away_or_silent(web: WebServer, opened: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable):
        Sources.to_look(opened).pin(f"{BUCKET}/x.npy")
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    web.hung.add("/open-bucket/x.npy")
    hasty = opened.model_copy(update={"source_timeout_s": 0.2})
    with pytest.raises(SourceTimeout):
        Sources.to_look(hasty).pin(f"{BUCKET}/x.npy")
