"""Compose itself reads docker-compose.yml, whatever the profile, and as the tests without it do."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from scripts.containers.engine import Engine
from tests.containers.compose_file import ROOT, composed

pytestmark = pytest.mark.containers


def read(engine: Engine, *files: str, **environment: str) -> dict[str, Any]:
    """What Compose makes of the file, with every profile."""
    words = [word for file in ("docker-compose.yml", *files) for word in ("-f", file)]
    done = subprocess.run(
        [engine.compose, "--env-file", "/dev/null", *words, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_reads_what_these_tests_read(engine: Engine) -> None:
    ours = composed()
    real = read(engine)
    assert real["name"] == "ihvp"
    assert set(real["services"]) == set(ours["services"])
    for name, service in real["services"].items():
        same = ["image", "user", "read_only", "cap_drop", "security_opt", "pids_limit", "restart", "tmpfs", "profiles"]
        for field in same:
            assert service.get(field) == ours["services"][name].get(field), (name, field)
        for field in ("depends_on", "networks"):
            assert set(service.get(field) or ()) == set(ours["services"][name].get(field, ())), (name, field)
    assert real["services"]["worker"]["deploy"]["replicas"] == 1


def test_the_cut_is_a_truth_value_to_it(engine: Engine) -> None:
    assert "internal" not in read(engine)["networks"]["egress"]
    assert read(engine, IHVP_EGRESS_INTERNAL="true")["networks"]["egress"]["internal"] is True


def test_grafanas_port_goes_on_top(engine: Engine) -> None:
    grafana = read(engine, "docker/grafana-port.yml")["services"]["grafana"]
    assert [(port["host_ip"], port["published"]) for port in grafana["ports"]] == [("127.0.0.1", "3000")]
    assert set(grafana["networks"]) == {"beside", "edge"}
