"""Compose itself reads docker-compose.yml, whatever the profile, and as the tests without it do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.containers.commands import Skipped
from scripts.containers.engine import prepared
from tests.containers.compose_file import ROOT, composed

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def compose() -> Path:
    try:
        return prepared().compose
    except Skipped as skipped:
        pytest.skip(str(skipped))


def read(compose: Path, *files: str, **environment: str) -> dict[str, Any]:
    """What Compose makes of the file, with every profile."""
    words = [word for file in ("docker-compose.yml", *files) for word in ("-f", file)]
    done = subprocess.run(
        [compose, "--env-file", "/dev/null", *words, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_reads_what_these_tests_read(compose: Path) -> None:
    ours = composed()
    real = read(compose)
    assert real["name"] == "ihvp"
    assert set(real["services"]) == set(ours["services"])
    for name, service in real["services"].items():
        same = ["image", "user", "read_only", "cap_drop", "security_opt", "pids_limit", "restart", "tmpfs", "profiles"]
        for field in same:
            assert service.get(field) == ours["services"][name].get(field), (name, field)
        for field in ("depends_on", "networks"):
            assert set(service.get(field) or ()) == set(ours["services"][name].get(field, ())), (name, field)
    assert real["services"]["worker"]["deploy"]["replicas"] == 1


def test_the_cut_is_a_truth_value_to_it(compose: Path) -> None:
    assert "internal" not in read(compose)["networks"]["egress"]
    assert read(compose, IHVP_EGRESS_INTERNAL="true")["networks"]["egress"]["internal"] is True


def test_grafanas_port_goes_on_top(compose: Path) -> None:
    grafana = read(compose, "docker/grafana-port.yml")["services"]["grafana"]
    assert [(port["host_ip"], port["published"]) for port in grafana["ports"]] == [("127.0.0.1", "3000")]
    assert set(grafana["networks"]) == {"beside", "edge"}
