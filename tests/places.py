"""Places outside the service that hold files, on loopback: each server starts when a test first asks for it."""

from __future__ import annotations

import datetime
import ipaddress
import json
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from ihvp.up.embedded_store import free_port
from tests.sources.hub import Hub, running_hub
from tests.sources.mlflow_server import MlflowServer, running_mlflow
from tests.sources.web_server import WebServer, running_web_server

__all__ = ["Places"]


class Places:
    """Their ports are fixed at once, so that a service can be told of them before they are there.

    Args:
        folder: For what they keep.
        root: The folder that is opened to ``file://`` references.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._started = ExitStack()
        self._web, self._s3, self._hub, self._mlflow = (free_port() for _ in range(4))
        self.settings = {
            "source_roots": json.dumps([str(root)]),
            "source_private_hosts": json.dumps(["localhost"]),
            "source_buckets": json.dumps(["s3://models"]),
            "hf_endpoint": f"http://127.0.0.1:{self._hub}",
            "mlflow_tracking_uri": f"http://127.0.0.1:{self._mlflow}",
        }
        environment = self._started.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self._s3}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("SSL_CERT_FILE", str(self._certificate))

    @cached_property
    def web(self) -> WebServer:
        """A server of https, whose certificate the processes trust."""
        return self._started.enter_context(running_web_server(self._web, self._certificate))

    @cached_property
    def s3(self) -> Any:
        """A client of moto's S3 server."""
        import botocore.session
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._s3, verbose=False)
        server.start()
        self._started.callback(server.stop)
        return botocore.session.get_session().create_client("s3")

    @cached_property
    def hub(self) -> Hub:
        """A Hugging Face hub."""
        return self._started.enter_context(running_hub(self._hub))

    @cached_property
    def mlflow(self) -> MlflowServer:
        """An MLflow server."""
        return self._started.enter_context(running_mlflow(self._folder, self._mlflow))

    def close(self) -> None:
        """Stops what has been started."""
        self._started.close()

    @cached_property
    def _certificate(self) -> Path:
        """A certificate for localhost, with its key, that vouches for itself."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        path = self._folder / "localhost.pem"
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + certificate.public_bytes(pem))
        return path
