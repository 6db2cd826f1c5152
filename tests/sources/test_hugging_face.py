"""Repositories of a hub: listed, pinned and read at one commit, by our adapter as by the hub's own client."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihvp.errors import SourceForbidden, SourceNotAllowed, SourceNotFound
from ihvp.settings import Settings
from ihvp.sources.pinning import pin_references, pinned_folder
from ihvp.sources.sources import Sources
from tests.sources.hub import COMMIT, Hub, running_hub

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(1000),
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"\x80\x02",
    "modeling_bert.py": b"import os",
    "onnx/model.onnx": b"",
}
REPOSITORY = f"hf://org/tiny-bert@{COMMIT}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    with running_hub() as hub:
        hub.repositories["models/org/tiny-bert"] = dict(FILES)
        hub.repositories["datasets/org/texts"] = {"data/train.parquet": b"PAR1", "README.md": b""}
        yield hub


@pytest.fixture
def store(hub: Hub) -> Iterator[Hub]:
    """The place that large files come from, as they do from the real hub."""
    with running_hub() as store:
        store.repositories = hub.repositories
        hub.elsewhere = f"{store.url}/store"
        yield store


@pytest.fixture
def sources(hub: Hub) -> Sources:
    return Sources.to_look(Settings(hf_endpoint=hub.url))


def test_the_hub_speaks_as_the_real_client_expects(hub: Hub, store: Hub, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.url, token=False)
    listed = {e.path: e for e in api.list_repo_tree("org/tiny-bert", revision=COMMIT, recursive=True)}
    assert set(listed) == set(FILES)
    assert listed["model.safetensors"].lfs.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    for name in ("config.json", "model.safetensors"):
        got = api.hf_hub_download("org/tiny-bert", name, revision=COMMIT, cache_dir=tmp_path)
        assert Path(got).read_bytes() == FILES[name]


def test_a_repository_becomes_the_files_that_are_needed(sources: Sources) -> None:
    pins = pin_references([REPOSITORY], {}, sources)
    assert sorted(pinned_folder(REPOSITORY, pins)) == ["config.json", "model.safetensors"]
    large = pins[f"{REPOSITORY}/model.safetensors"]
    assert (large.size, large.sha256) == (1000, hashlib.sha256(bytes(1000)).hexdigest())
    for uri, pin in pins.items():
        with sources.open(uri, pin) as file:
            assert file.read() == FILES[uri.removeprefix(f"{REPOSITORY}/")]


def test_one_file_and_one_of_a_data_set(sources: Sources) -> None:
    assert sources.pin(f"{REPOSITORY}/config.json").size == len(FILES["config.json"])
    data = f"hf://datasets/org/texts@{COMMIT}"
    assert sources.files(data) == ["README.md", "data/train.parquet"]
    assert sources.pin(f"{data}/data/train.parquet").size == 4
    assert sources.files(f"{data}/data/") == ["train.parquet"]


@pytest.mark.parametrize(
    "uri", [f"{REPOSITORY}/missing.json", f"hf://org/none@{COMMIT}/config.json", f"hf://org/tiny-bert@{'0' * 40}/x"]
)
def test_what_is_not_there(sources: Sources, uri: str) -> None:
    with pytest.raises((SourceNotFound, SourceForbidden)):
        sources.pin(uri)


def test_nothing_is_reached_without_an_endpoint() -> None:
    with pytest.raises(SourceNotAllowed, match="IHVP_HF_ENDPOINT"):
        Sources.to_look(Settings()).files(REPOSITORY)


def test_a_private_repository_needs_the_process_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private.add("models/org/tiny-bert")
    settings = Settings(hf_endpoint=hub.url)
    with pytest.raises(SourceForbidden, match="operator gives credentials"):
        Sources.to_look(settings).files(REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "config.json" in Sources.to_look(settings).files(REPOSITORY)


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HF_TOKEN_PATH"])
def test_so_it_does_where_the_hubs_client_is_not_installed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """As in the API's image."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub.private.add("models/org/tiny-bert")
    settings = Settings(hf_endpoint=hub.url)
    with pytest.raises(SourceForbidden, match="operator gives credentials"):
        Sources.to_look(settings).files(REPOSITORY)
    (tmp_path / "token").write_text("hf_secret\n")
    monkeypatch.setenv(variable, {"HF_TOKEN": "hf_secret", "HF_TOKEN_PATH": str(tmp_path / "token")}[variable])
    assert "config.json" in Sources.to_look(settings).files(REPOSITORY)


def test_the_token_goes_to_the_hub_alone(hub: Hub, store: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sources = Sources.to_look(Settings(hf_endpoint=hub.url))
    uri = f"{REPOSITORY}/model.safetensors"
    with sources.open(uri, sources.pin(uri)) as file:
        assert len(file.read()) == 1000
    assert {token for _, token in hub.tokens} == {"Bearer hf_secret"}
    assert {token for _, token in store.tokens} == {None}


@pytest.mark.parametrize("to", ["http://169.254.169.254/latest", "https://10.0.0.1/x", "http://data.example.org/x"])
def test_a_hub_that_redirects_to_a_private_address(hub: Hub, sources: Sources, to: str) -> None:
    hub.elsewhere = to
    uri = f"{REPOSITORY}/model.safetensors"
    with sources.open(uri, sources.pin(uri)) as file, pytest.raises(SourceNotAllowed):
        file.read()
