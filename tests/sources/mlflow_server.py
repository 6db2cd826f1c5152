"""A real MLflow tracking server on loopback, and models in it, put there by MLflow's own client."""

from __future__ import annotations

import importlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server


class MlflowServer:
    """The server's address, and its client.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        from mlflow.tracking import MlflowClient

        self.url = url
        self.client: Any = MlflowClient(tracking_uri=url, registry_uri=url)

    def register(self, name: str, files: Mapping[str, bytes]) -> str:
        """Logs files as the artifacts of a new run, and registers them as the model's next version; the run's id."""
        run = self.client.create_run("0")
        self.write(run.info.run_id, files)
        self._version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        return str(run.info.run_id)

    def write(self, run: str, files: Mapping[str, bytes]) -> None:
        """Logs files, over those that are there."""
        with tempfile.TemporaryDirectory() as folder:
            for path, data in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            self.client.log_artifacts(run, folder, "model")

    def point(self, name: str, folder: Path, files: Mapping[str, bytes]) -> None:
        """Registers files that lie in a folder of the machine as a version of a model."""
        run = self.client.create_run(self.client.create_experiment(name, artifact_location=folder.as_uri()))
        place = Path(run.info.artifact_uri.removeprefix("file://"))
        place.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (place / path).write_bytes(data)
        self._version(name, run.info.artifact_uri, run.info.run_id)

    def _version(self, name: str, source: str, run: str) -> None:
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # it is there
            self.client.create_registered_model(name)
        self.client.create_model_version(name, source, run, await_creation_for=0)


@contextmanager
def running_mlflow(folder: Path, port: int = 0) -> Iterator[MlflowServer]:
    """MLflow's own server application, in a thread: `mlflow server` is two more processes that import it first."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
            "ARTIFACT_ROOT": "mlflow-artifacts:/",
            "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "SERVE_ARTIFACTS": "true",
        }.items():
            constants = importlib.import_module("mlflow.server.constants")
            environment.setenv(getattr(constants, f"{name}_ENV_VAR"), value)
        server = make_server("127.0.0.1", port, importlib.import_module("mlflow.server").app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield MlflowServer(f"http://127.0.0.1:{server.port}")
        finally:
            server.shutdown()
            server.server_close()
            thread.join(5)
