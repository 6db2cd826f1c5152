"""Models of a real MLflow server, registered by MLflow's own client: artifacts alone are read, by version or alias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ihvp.errors import SourceChanged, SourceForbidden, SourceNotAllowed, SourceNotFound, SourceUnavailable
from ihvp.settings import Settings
from ihvp.sources.pinning import pin_references, pinned_folder
from ihvp.sources.sources import Sources
from tests.sources.mlflow_server import MlflowServer
from tests.sources.web_server import WebServer

FILES = {
    "MLmodel": b"flavors: {}",
    "model.safetensors": b"first",
    "data/train.parquet": b"PAR1",
    "model.pkl": b"\x80\x04",
}


@pytest.fixture(scope="module")
def churn(mlflow: MlflowServer) -> MlflowServer:
    mlflow.register("churn", FILES)
    mlflow.register("churn", {**FILES, "model.safetensors": b"second"})
    mlflow.client.set_registered_model_alias("churn", "champion", "1")
    return mlflow


@pytest.fixture
def opened(mlflow: MlflowServer, tmp_path: Path) -> Settings:
    return Settings(mlflow_tracking_uri=mlflow.url, data_dir=tmp_path)


def read(settings: Settings, uri: str, pin: Any = None) -> bytes:
    sources = Sources.to_look(settings)
    with sources.open(uri, pin or sources.pin(uri)) as file:
        return file.read()


def test_versions_and_aliases_are_read(churn: MlflowServer, opened: Settings) -> None:
    assert read(opened, "mlflow://models/churn/1/model.safetensors") == b"first"
    assert read(opened, "mlflow://models/churn/2/model.safetensors") == b"second"
    assert read(opened, "mlflow://models/churn@champion/model.safetensors") == b"first"


def test_a_version_becomes_the_files_that_are_needed_and_never_a_pickle(churn: MlflowServer, opened: Settings) -> None:
    uri = "mlflow://models/churn/1"
    pins = pin_references([uri], {}, Sources.to_look(opened))
    assert sorted(pinned_folder(uri, pins)) == ["data/train.parquet", "model.safetensors"]


def test_an_alias_that_moves_still_means_what_was_pinned(churn: MlflowServer, opened: Settings) -> None:
    uri = "mlflow://models/churn@champion/model.safetensors"
    pin = Sources.to_look(opened).pin(uri)
    assert pin.resolved == "mlflow://models/churn/1/model.safetensors"
    churn.client.set_registered_model_alias("churn", "champion", "2")
    try:
        assert read(opened, uri) == b"second"
        assert read(opened, uri, pin) == b"first"
    finally:
        churn.client.set_registered_model_alias("churn", "champion", "1")


def test_an_artifact_that_is_written_over(mlflow: MlflowServer, opened: Settings) -> None:
    run = mlflow.register("rewritten", {"w.npy": b"old"})
    uri = "mlflow://models/rewritten/1/w.npy"
    pin = Sources.to_look(opened).pin(uri)
    mlflow.write(run, {"w.npy": b"new"})
    with pytest.raises(SourceChanged, match="Register a new version"):
        read(opened, uri, pin)


@pytest.mark.parametrize("uri", ["none/1/x", "churn/9/x", "churn@nobody/x", "churn/1/missing.npy"])
def test_what_is_not_there(churn: MlflowServer, opened: Settings, uri: str) -> None:
    with pytest.raises(SourceNotFound):
        Sources.to_look(opened).pin(f"mlflow://models/{uri}")


def test_artifacts_elsewhere_are_read_only_where_that_is_open(
    mlflow: MlflowServer, opened: Settings, tmp_path: Path
) -> None:
    # Whoever may register a model can let its version point to any file of the machine.
    mlflow.point("local", tmp_path, {"w.npy": b"on the disk"})
    uri = "mlflow://models/local/1/w.npy"
    with pytest.raises(SourceNotAllowed, match="IHVP_SOURCE_ROOTS"):
        Sources.to_look(opened).pin(uri)
    assert read(opened.model_copy(update={"source_roots": (tmp_path,)}), uri) == b"on the disk"


def test_nothing_is_reached_without_a_server() -> None:
    with pytest.raises(SourceNotAllowed, match="IHVP_MLFLOW_TRACKING_URI"):
        Sources.to_look(Settings()).pin("mlflow://models/churn/1/x")


def test_a_server_that_denies_or_is_away(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.statuses["/api/2.0/mlflow/model-versions/get"] = 401
    with pytest.raises(SourceForbidden):
        Sources.to_look(Settings(mlflow_tracking_uri=web.url)).pin("mlflow://models/churn/1/x")
    with pytest.raises(SourceUnavailable):
        Sources.to_look(Settings(mlflow_tracking_uri="http://127.0.0.1:9")).pin("mlflow://models/churn/1/x")


def test_credentials_are_mlflows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().mlflow_authorization is None
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert Settings().mlflow_authorization == "Basic YWRhOnNlY3JldA=="
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    assert Settings().mlflow_authorization == "Bearer token"
