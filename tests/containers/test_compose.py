"""docker-compose.yml without an engine: what it names exists, what it promises is in every service."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ihvp import __version__
from ihvp.cli.main import app
from ihvp.settings import Settings
from tests.containers.compose_file import ROOT, TEXT, composed, replaced, variables
from tests.containers.env_example import FIXED, SECRET, setting_lines

COMPOSE = composed()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"prepare", "doctor", "doctor-gpu", "prepare-observability", "prepare-s3"}
OURS = {name for name, service in SERVICES.items() if "ihvp" in service["image"]}
PARTS = OURS - ONCE
GRAFANA_PORT = (ROOT / "docker/grafana-port.yml").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def each(names: set[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", sorted(names))


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Target → source, and whether it can be written."""
    split = [volume.split(":") for volume in service.get("volumes", ())]
    return {target: (source, rest != ["ro"]) for source, target, *rest in split}


def command(service: dict[str, Any]) -> list[str]:
    return [*service.get("entrypoint", ()), *service.get("command", ())]


def test_the_parts_are_those_of_ihvp_up_and_a_store() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "prepare", "valkey", "doctor", "api", "worker", "reconciler", "webhooks",
    }  # fmt: skip
    assert {service["profiles"][0] for service in SERVICES.values() if "profiles" in service} == {
        "gpu", "observability", "s3",
    }  # fmt: skip


@each({name for name, service in SERVICES.items() if "build" in service})
def test_what_is_built_is_there_to_be_built(name: str) -> None:
    build = SERVICES[name]["build"]
    assert build["context"] == "."
    text = (ROOT / build["dockerfile"]).read_text(encoding="utf-8")
    assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    if "target" in build:
        assert build["target"] in re.findall(r"^FROM .+ AS (\S+)$", text, re.MULTILINE | re.IGNORECASE)


def test_each_of_our_images_is_built_once_and_is_of_this_version() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    assert len(set(built)) == len(built)
    assert set(built) == {SERVICES[name]["image"] for name in OURS}
    assert {re.split("[:-]", image)[2] for image in built} == {__version__}


def test_images_of_others_are_pinned_to_a_version_and_can_be_pinned_to_a_digest() -> None:
    for name in set(SERVICES) - OURS:
        assert re.fullmatch(r"docker\.io/[\w./-]+:v?\d+\.\d+(\.\d+)?", SERVICES[name]["image"]), name
    for line in re.findall(r"^    image: (.+)$", TEXT, re.MULTILINE):
        assert line.startswith(("${", "*", "&gpu-image ${")), line


@each(set(SERVICES))
def test_what_is_mounted_is_there(name: str) -> None:
    for source, can_be_written in mounts(SERVICES[name]).values():
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert not can_be_written
        else:
            assert source in COMPOSE["volumes"]


@each(set(SERVICES) - {name for name in SERVICES if SERVICES[name]["image"].find("grafana") >= 0})
def test_files_that_commands_name_are_mounted(name: str) -> None:
    service = SERVICES[name]
    probe = service.get("healthcheck", {}).get("test", ["CMD"])[1:]
    for word in [*command(service), *probe]:
        path = word.rpartition("=")[2]
        if path.startswith("/etc/ihvp/"):
            (source,) = (
                Path(source) / Path(path).relative_to(target)
                for target, (source, _) in mounts(service).items()
                if Path(path).is_relative_to(target)
            )
            assert (ROOT / source).is_file(), path


def test_networks_and_volumes_are_declared_and_each_has_a_use() -> None:
    used = {network for service in SERVICES.values() for network in service.get("networks", ())}
    assert used == set(COMPOSE["networks"])
    named = {source for service in SERVICES.values() for source, _ in mounts(service).values()}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


@each(set(SERVICES))
def test_what_it_waits_for_can_become_so(name: str) -> None:
    waits = SERVICES[name].get("depends_on", {})
    for other, condition in waits.items():
        assert condition == {"condition": "service_completed_successfully" if other in ONCE else "service_healthy"}
        assert other in ONCE or "healthcheck" in SERVICES[other]
        # A service of a profile is not there without it.
        assert set(SERVICES[other].get("profiles", ())) <= set(SERVICES[name].get("profiles", ()))
    if name not in {"prepare", "otel-collector"}:
        assert waits


@each(OURS)
def test_commands_are_those_of_the_cli(name: str) -> None:
    service = SERVICES[name]
    if "entrypoint" not in service:
        parse(service["command"])
    if name in PARTS:
        kind, program, *words = service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "ihvp")
        parse(words)
        assert words == ["healthy", service["command"][1]]


def parse(words: list[str]) -> None:
    """Fails unless `ihvp` takes these."""
    name, *rest = words
    commands = get_command(app).commands  # type: ignore[attr-defined]
    commands[name].make_context(name, list(rest))


def test_the_api_alone_is_published_and_on_the_loopback() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "api": ["127.0.0.1:8000:8000"]
    }
    assert not any(service.get("network_mode") == "host" for service in SERVICES.values())
    assert composed(IHVP_PUBLISH="8001")["services"]["api"]["ports"] == ["8001:8000"]


def test_grafana_goes_to_a_port_only_by_a_file_of_its_own() -> None:
    added = yaml.safe_load(replaced(GRAFANA_PORT, {}))["services"]
    assert {name: service["ports"] for name, service in added.items()} == {"grafana": ["127.0.0.1:3000:3000"]}


@each(set(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:10001", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not {"cap_add", "privileged", "devices", "pid", "ipc", "userns_mode"} & set(service)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@each(set(SERVICES) - ONCE)
def test_what_ends_is_started_again_and_what_hangs_is_seen(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    # Its image has no program to look with.
    assert "healthcheck" in service or name == "otel-collector"


@each(ONCE)
def test_what_runs_once_is_not_started_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"
    assert "healthcheck" not in SERVICES[name]


@each(set(SERVICES))
def test_secrets_are_files_and_only_those_that_make_them_write_there(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        if re.search("PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", variable):
            assert str(value).startswith("/run/secrets"), variable
        assert not re.search(r"://[^/]*:[^/]*@", str(value)), variable
    for word in command(service):
        assert not re.search("pass|secret=|token|--key", word.removeprefix("/etc/ihvp/more-secrets.sh")), word
    source, can_be_written = mounts(service).get("/run/secrets", ("", False))
    assert source in {"secrets", ""}
    assert can_be_written == name.startswith("prepare")


def test_only_the_store_has_the_stores_volume_and_no_way_leads_out_of_it() -> None:
    assert {name for name, service in SERVICES.items() if "store" in [s for s, _ in mounts(service).values()]} == {
        "valkey"
    }
    assert SERVICES["valkey"]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    inside = {name for name, service in SERVICES.items() if "inside" in service.get("networks", ())}
    assert inside == PARTS | {"valkey", "doctor", "doctor-gpu"}


def test_one_variable_cuts_the_workers_off() -> None:
    workers = {name: SERVICES[name]["networks"] for name in ("worker", "worker-gpu")}
    assert set(map(tuple, workers.values())) == {("inside", "beside", "egress")}
    assert COMPOSE["networks"]["beside"] == {"internal": True}
    assert COMPOSE["networks"]["egress"] == {"internal": False}
    assert composed(IHVP_EGRESS_INTERNAL="true")["networks"]["egress"] == {"internal": True}
    # Webhooks go on.
    assert SERVICES["webhooks"]["networks"] == ["inside", "beside", "delivery"]
    assert COMPOSE["networks"]["delivery"] is None


def test_a_gpu_is_reserved_under_the_profile_and_cpu_workers_can_be_left_out() -> None:
    gpu = SERVICES["worker-gpu"]
    assert gpu["environment"]["IHVP_DEVICE"] == "cuda"
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert gpu["command"] == SERVICES["worker"]["command"]
    # Who looks for the GPU sees what the worker will.
    assert "doctor-gpu" in gpu["depends_on"]
    for field in ("image", "environment", "deploy", "profiles"):
        assert SERVICES["doctor-gpu"][field] == gpu[field], field
    assert composed(IHVP_WORKER_REPLICAS="0")["services"]["worker"]["deploy"] == {"replicas": 0}
    two = composed(IHVP_WORKER_REPLICAS="2")["services"]
    assert (two["worker"]["deploy"]["replicas"], two["worker"]["environment"]["IHVP_WORKERS"]) == (2, 2)


def test_a_worker_has_the_memory_that_it_plans_for_and_the_time_to_save_its_solve() -> None:
    from workers.celery_app import worker_configuration

    worker = SERVICES["worker"]
    assert seconds(worker["stop_grace_period"]) >= 3 * Settings().stop_grace_s
    # Celery replaces a child that leaks before the kernel kills it.
    assert (
        int(worker["mem_limit"].removesuffix("g")) * 2**20
        > worker_configuration(Settings())["worker_max_memory_per_child"]
    )


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


@each(OURS)
def test_every_setting_of_the_env_file_reaches_every_part(name: str) -> None:
    service = SERVICES[name]
    assert service["env_file"] == [{"path": ".env", "required": False}]
    settings = {f"IHVP_{field.upper()}" for field in Settings.model_fields}
    # What the file sets itself would win over .env.
    written = {variable for variable in service["environment"] if variable in settings} - FIXED
    given = composed(**dict.fromkeys(written, "7"))["services"][name]["environment"]
    own = {"IHVP_DEVICE"} if name.endswith("-gpu") else set()
    assert {variable for variable in written if str(given[variable]) != "7"} == own


def test_the_layout_decides_only_what_it_has_to() -> None:
    assert {"IHVP_DATA_DIR", "IHVP_SECRETS_DIR", "IHVP_HOST", "IHVP_PORT", "IHVP_URL"} == FIXED
    assert {f"IHVP_{name.upper()}" for name in Settings.model_fields} >= SECRET


def documented() -> dict[str, str]:
    found = re.findall(r"^#?([A-Z]\w+)=(.*)$", ENV_EXAMPLE, re.MULTILINE)
    assert len(dict(found)) == len(found)
    return dict(found)


def test_the_example_names_every_variable_with_its_default_and_meaning() -> None:
    ours = variables(TEXT + GRAFANA_PORT)
    example = documented()
    assert {name: example.get(name) for name in ours} == ours
    first, _, second = ENV_EXAMPLE.partition("# Settings of the service ---")
    settings = {f"IHVP_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"^#(\w+)=", first, re.MULTILINE)) - set(ours) == set()
    assert set(re.findall(r"^#(\w+)=", second, re.MULTILINE)) <= settings
    for name in example:
        assert re.search(rf"^# .+\.$\n#{name}=|^# .+:$\n#{name}=", ENV_EXAMPLE, re.MULTILINE), name


def test_the_examples_settings_are_those_of_the_code() -> None:
    """`python -m tests.containers.env_example` prints the lines."""
    assert ENV_EXAMPLE.partition("# Settings of the service ---")[2].splitlines()[2:] == setting_lines()


def test_the_example_changes_nothing_and_is_a_file_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line for line in ENV_EXAMPLE.splitlines() if line and not line.startswith("#")] == []
    for name, value in documented().items():
        if value and name.startswith("IHVP_"):
            monkeypatch.setenv(name, shlex.split(value)[0] if value[0] in "'\"" else value)
    fields = Settings.model_fields
    changed = {name for name, value in Settings() if value != fields[name].default}
    assert changed <= {"redis_url", "publish"}
