"""What is set up wrongly ends the start with one line that says what to do; nothing goes on half."""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from ihvp import __version__
from ihvp.jobs.calls import SCHEMA_VERSION
from scripts.containers.engine import Engine
from tests.deployment.deployment import Deployment
from tests.deployment.report import Report

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600), pytest.mark.usefixtures("images")]

Make = Callable[..., Deployment]


@pytest.fixture
def make(engine: Engine, docker: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes projects of their own, gone with the test."""
    with ExitStack() as stack:

        def made(**variables: str) -> Deployment:
            deployment = Deployment(engine, docker, tmp_path_factory.mktemp("ihvp-refused"), **variables)
            stack.callback(deployment.down, "--volumes")
            return deployment

        yield made


def refused(deployment: Deployment, *words: str, api: bool = False) -> str:
    """The one line by which ``sh docker/up.sh`` ends.

    Args:
        deployment: What does not start.
        words: Options of compose.
        api: Whether the API runs all the same.
    """
    status, said = deployment.up_script(*words)
    assert status == 1, said
    lines = [line.removeprefix("up: ") for line in said.splitlines() if line.startswith("up: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    running = {name for name, state in deployment.states().items() if state["State"]["Running"]}
    assert ("api" in running) == api, f"{running} run\n{said}"
    return lines[0]


def test_a_missing_secret(make: Make, report: Report, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    line = refused(make(IHVP_SECRETS=str(tmp_path)))
    assert "ihvp_store_password" in line
    assert "openssl rand -hex 32" in line
    report.add("a missing secret", f"`{line}`")


def test_a_port_in_use(make: Make, report: Report) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(make(IHVP_PUBLISH=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert "IHVP_PUBLISH=" in line
    report.add("a port in use", f"`{line}`")


def test_no_gpu_under_the_profile_gpu(make: Make, report: Report) -> None:
    # The image for CUDA cannot be built here; the look for a GPU is the same in any image.
    deployment = make(IHVP_WORKER_GPU_IMAGE=f"ihvp-worker:{__version__}-cpu")
    began = time.monotonic()
    done = deployment.compose("--profile", "gpu", "up", "-d", "--wait")
    assert done.returncode == 1, "compose by itself ends, too"
    assert "doctor-gpu" in done.stderr
    assert time.monotonic() - began < 120
    line = refused(deployment, "--profile", "gpu", api=True)
    assert "GPU" in line
    report.add("no GPU under the profile `gpu`", f"`{line}`")


@pytest.mark.parametrize("other", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1], ids=["older", "newer"])
def test_a_store_of_another_schema(make: Make, report: Report, other: int) -> None:
    deployment = make()
    deployment.up("valkey")
    keys = f"'{{ihvp}}:schema' {other} '{{ihvp}}:version' 7.8.9"
    shell = f"REDISCLI_AUTH=$(cat /run/secrets/ihvp_store_password) valkey-cli mset {keys}"
    assert deployment.compose("exec", "-T", "valkey", "sh", "-c", shell).stdout.strip() == "OK"
    line = refused(deployment)
    assert f"7.8.9, schema {other}" in line
    report.add(f"a store whose schema is {'older' if other < SCHEMA_VERSION else 'newer'}", f"`{line}`")


def test_a_read_only_volume(make: Make, report: Report) -> None:
    deployment = make()
    override = deployment.folder / "docker-compose.override.yml"
    override.write_text("services:\n  prepare:\n    volumes: ['data:/data:ro']\n", encoding="utf-8")
    line = refused(deployment)
    assert "read-only" in line
    report.add("a volume that is read-only", f"`{line}`")


def test_an_address_that_others_reach_without_a_key(make: Make, report: Report) -> None:
    deployment = make()
    deployment.set(IHVP_PUBLISH=f"0.0.0.0:{deployment.port}")
    line = refused(deployment)
    assert "keys create" in line
    report.add("an address that others reach, and no key", f"`{line}`")
