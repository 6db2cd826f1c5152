"""A version of a model in MLflow's registry: the service reads its artifacts, by its alias, and runs none of its code.

Run it with ``python -m examples.mlflow_model``. It starts MLflow's own tracking server on this machine, logs a network
that was trained on scikit-learn's digits, registers it under the alias ``champion``, and has a service solve on it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from examples.command import console, run_example
from examples.digits import ARCHITECTURE, load_digits_split, predict, train_mlp
from examples.hardest_digits import HardestDigits
from examples.running_service import RunningService, ServiceDidNotStart
from ihvp import Client
from ihvp.client.uploads import tensor_bytes
from ihvp.settings import child_environment
from ihvp.up.child import start_child, stop_group
from ihvp.up.embedded_store import free_port

MODEL: Final = "digits"
START_S: Final = 60.0

Array = np.ndarray[Any, np.dtype[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    return run_example("mlflow_model", __doc__, _run, arguments)


def _run(out: Path) -> bool:
    with (
        _tracking_server(out / "mlflow") as tracking,
        RunningService(out / "data", mlflow_tracking_uri=tracking) as service,
    ):
        digits = load_digits_split()
        weights = train_mlp(digits)
        question = HardestDigits(digits, predict(weights, digits.test_images))
        version = _register(tracking, weights)
        console.print(f"MLflow has models:/{MODEL}/{version}, alias champion, at {tracking}")
        url = service.wait_until_ready()
        console.print(f"Service ready at {url}")
        with Client(url) as client:
            model = client.register_model(
                "digits-of-mlflow",
                architecture=ARCHITECTURE,
                weights=f"mlflow://models/{MODEL}@champion/weights.safetensors",
                loss="cross_entropy",
                data={"inputs": digits.train_images, "targets": digits.train_labels},
            )
            console.print(f"Registered {model.reference} with weights {model.spec.weights}", soft_wrap=True)
            return question.solve(client, model.reference)


def _register(tracking: str, weights: dict[str, Array]) -> str:
    """Logs the weights as an artifact of a run, as a training script would; the version of the model."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=tracking, registry_uri=tracking)
    run = client.create_run("0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.safetensors")
        path.write_bytes(tensor_bytes(weights))
        client.log_artifact(run.info.run_id, str(path), "model")
    try:
        client.create_registered_model(MODEL)
    except MlflowException:
        console.print("The registry has the model of an earlier run already; this is its next version.")
    version = client.create_model_version(
        MODEL, f"{run.info.artifact_uri}/model", run.info.run_id, await_creation_for=0
    )
    client.set_registered_model_alias(MODEL, "champion", version.version)
    return str(version.version)


@contextmanager
def _tracking_server(folder: Path) -> Iterator[str]:
    """MLflow's tracking server, its address; gone with this program."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    options += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "mlflow.log").open("ab") as log:
        server = start_child(
            [sys.executable, "-m", "mlflow", "server", *options],
            environment={**child_environment(), "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=folder,
            stdout=log,
            stderr=log,
            death_signal=signal.SIGTERM,
        )
    try:
        yield _answering(f"http://127.0.0.1:{port}", server, folder / "mlflow.log")
    finally:
        stop_group(server, 5.0)


def _answering(url: str, server: subprocess.Popen[bytes], log: Path) -> str:
    """The address, once it answers."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2.0).status_code == httpx.codes.OK:
                return url
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise ServiceDidNotStart(f"MLflow's server does not answer; {log} says why")


if __name__ == "__main__":
    sys.exit(main())
