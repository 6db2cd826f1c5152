"""What a part refuses to start with: each for real, each in one line that says what to do, with status 2."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from pydantic import SecretStr

from ihvp.jobs.redis_store import RedisJobStore
from ihvp.keys.key import KeySpec, Scope, Secret
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore, free_port
from tests.chaos import full_disk
from tests.starting.started import ROOT, Host
from tests.store.samples import job_request, new_id
from tests.waiting import eventually
from workers.broker import make_celery, waiting_tokens

PARTS = ("api", "worker", "reconciler", "webhooks")
# Root, but as in a container that has dropped all capabilities: permissions count.
CONFINED = ["setpriv", "--bounding-set=-all"]
needs_capabilities = pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run([*CONFINED, "true"], check=False).returncode != 0,
    reason="only root can own a folder in another's name",
)
needs_mounts = pytest.mark.skipif(full_disk.why_not() is not None, reason=f"no mounts here: {full_disk.why_not()}")


def client(host: Host) -> redis.Redis:
    return redis.Redis.from_url(host.settings.redis_url, decode_responses=True)


class TestPassword:
    @pytest.mark.parametrize("part", PARTS)
    def test_a_missing_secret(self, host: Host, part: str) -> None:
        host.secret.unlink()
        line = host.refused("start", part)
        assert "asks for a password, and none was given" in line
        assert str(host.secret) in line
        assert "ihvp prepare" in line

    def test_an_empty_secret(self, host: Host) -> None:
        host.secret.write_text("\n")
        assert "IHVP_STORE_PASSWORD: It is empty" in host.refused("start", "api")

    def test_a_folder_in_the_place_of_a_secret(self, host: Host) -> None:
        host.secret.unlink()
        host.secret.mkdir()
        assert "found a directory" in host.refused("start", "worker")

    @needs_capabilities
    def test_one_of_another_user(self, host: Host) -> None:
        host.secret.chmod(0o400)
        os.chown(host.secret, 10002, 10002)
        line = host.refused("start", "webhooks", before=CONFINED)
        assert "IHVP_STORE_PASSWORD: its file among the secrets cannot be read: Permission denied" in line

    def test_one_with_signs_that_an_address_cannot_hold(self, host: Host, own_server: EmbeddedStore) -> None:
        word = "p@s/s w:%25#?"
        with redis.Redis.from_url(own_server.url) as server:
            server.config_set("requirepass", word)
        host.secret.write_text(word)
        own = Settings(redis_url=f"redis://127.0.0.1:{own_server.port}/0", store_password=SecretStr(word))
        with closing(RedisJobStore.from_settings(own)) as jobs:
            jobs.create(new_id(), job_request())
        host.start("reconciler", redis_url=f"redis://127.0.0.1:{own_server.port}/0", namespace="ihvp")
        eventually(lambda: waiting_tokens(make_celery(own), own.queue_name) == 1)
        assert word not in host.log("reconciler").read_text()

    def test_a_wrong_one(self, host: Host) -> None:
        host.secret.write_text("wrong-word")
        line = host.refused("start", "reconciler")
        assert f"refuses the password in {host.secret}" in line
        assert "start the store anew" in line
        assert "wrong-word" not in line

    def test_a_wrong_one_in_the_address(self, host: Host) -> None:
        line = host.refused("start", "api", redis_url=f"redis://:wrong-word@127.0.0.1:{host.store.port}/0")
        assert "refuses the password in IHVP_REDIS_URL" in line
        assert "wrong-word" not in line

    def test_a_user_who_may_do_nothing(self, host: Host, own_server: EmbeddedStore) -> None:
        with redis.Redis.from_url(own_server.url) as server:
            server.execute_command("ACL", "SETUSER", "limited", "on", ">word", "+@connection")  # type: ignore[no-untyped-call]
        host.secret.write_text("word")
        line = host.refused("start", "api", redis_url=f"redis://limited@127.0.0.1:{own_server.port}/0")
        assert "does not let this user do its work" in line


class TestStore:
    def test_none_that_is_named(self, host: Host) -> None:
        assert "none is named. Set IHVP_REDIS_URL" in host.refused("start", "worker", redis_url=None)

    def test_an_address_that_is_none(self, host: Host) -> None:
        assert "IHVP_REDIS_URL is no address" in host.refused("start", "worker", redis_url="valkey")

    def test_one_that_does_not_come_is_waited_for_so_long(self, host: Host) -> None:
        began = time.monotonic()
        done = host.run("start", "worker", redis_url=f"redis://127.0.0.1:{free_port()}/0", start_wait_s=1)
        assert 1 <= time.monotonic() - began < 20
        assert done.returncode == 2
        waiting, line = done.stderr.splitlines()
        assert waiting.startswith("waiting for the job store at 127.0.0.1:")
        assert "was not there within 1 s" in line
        assert "IHVP_START_WAIT_S" in line

    def test_one_that_comes_late_is_found(self, host: Host) -> None:
        late = EmbeddedStore(host.folder / "late")
        host.secret.write_text(late.password)
        process = host.start("reconciler", redis_url=f"redis://127.0.0.1:{late.port}/0")
        eventually(lambda: "waiting for the job store" in host.log("reconciler").read_text())
        late.start()
        try:
            eventually(lambda: "reconciler_started" in host.log("reconciler").read_text())
            process.terminate()
            assert process.wait(10) == 0
        finally:
            late.stop()
        said = host.log("reconciler").read_text()
        assert said.count("waiting for") == 1
        assert late.password not in said

    @pytest.mark.parametrize(
        ("layout", "words"),
        [
            ("0", ("an older version", "until its jobs have ended", "IHVP_NAMESPACE")),
            ("2", ("another, newer version", "Run the version of ihvp that wrote it", "IHVP_NAMESPACE")),
            ("x", ("another, newer version", "IHVP_NAMESPACE")),
        ],
    )
    def test_one_that_another_version_has_written(self, host: Host, layout: str, words: tuple[str, ...]) -> None:
        with client(host) as server:
            server.set(f"{{{host.settings.namespace}}}:schema", layout)
        line = host.refused("start", "api")
        for word in words:
            assert word in line
        with client(host) as server:
            assert server.get(f"{{{host.settings.namespace}}}:schema") == layout, "it was left alone"


class TestData:
    @pytest.mark.parametrize("part", ["api", "worker", "reconciler"])
    def test_a_folder_that_is_not_there(self, host: Host, part: str) -> None:
        host.data.rmdir()
        line = host.refused("start", part)
        assert "The data directory is not there" in line
        assert str(host.data) in line

    def test_a_file_in_its_place(self, host: Host) -> None:
        host.data.rmdir()
        host.data.write_text("")
        assert "is not there" in host.refused("start", "api")

    @needs_mounts
    def test_a_read_only_volume(self, host: Host) -> None:
        script = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
        line = host.refused("start", "api", before=["unshare", "--mount", "sh", "-c", script, str(host.data)])
        assert "read-only volume" in line
        assert "':ro'" in line
        assert "read-only volume" in host.refused(
            "prepare", before=["unshare", "--mount", "sh", "-c", script, str(host.data)]
        )

    @needs_mounts
    def test_a_full_volume(self, host: Host) -> None:
        with full_disk.SmallDisk(host.folder / "small", 256 * 1024) as disk:
            disk.fill()
            line = host.refused("start", "reconciler", before=disk.enter, data_dir=host.folder / "small")
        assert "has no room left" in line

    def test_a_nearly_full_one_is_told_and_no_reason_to_refuse(self, host: Host) -> None:
        process = host.start("reconciler", keep_free_bytes=2**60)
        eventually(lambda: "reconciler_started" in host.log("reconciler").read_text())
        assert "less than IHVP_KEEP_FREE_BYTES" in host.log("reconciler").read_text()
        process.terminate()
        assert process.wait(10) == 0

    @needs_capabilities
    @pytest.mark.parametrize("inner", [".", "blobs"])
    def test_one_of_another_user(self, host: Host, inner: str) -> None:
        (host.data / inner).mkdir(exist_ok=True)
        os.chown(host.data / inner, 10002, 10002)
        line = host.refused("start", "api", before=CONFINED)
        assert "belongs to another user" in line
        assert f"of user 10002; this process is user {os.getuid()}" in line
        assert f"chown -R {os.getuid()}:{os.getgid()}" in line


class TestDevice:
    def test_a_gpu_that_is_not_there(self, host: Host) -> None:
        line = host.refused("start", "worker", device="cuda:7")
        assert "IHVP_DEVICE=cuda:7" in line
        assert "torch finds no GPU" in line
        assert "export IHVP_DEVICE=cpu" in line

    def test_only_workers_ask_for_it(self, host: Host) -> None:
        host.start("reconciler", device="cuda:7")
        eventually(lambda: "reconciler_started" in host.log("reconciler").read_text())


class TestAccess:
    @pytest.mark.parametrize(
        "settings",
        [{"host": "0.0.0.0"}, {"host": "127.0.0.1", "publish": "0.0.0.0:8000"}, {"publish": "8000"}],
        ids=lambda settings: "-".join(settings),
    )
    def test_no_key_where_others_reach_it(self, host: Host, settings: dict[str, str]) -> None:
        line = host.refused("start", "api", port=free_port(), **settings)
        assert "callers would need no key" in line
        assert "docker compose run --rm doctor keys create" in line

    @pytest.mark.parametrize("with_key", [False, True])
    def test_the_loopback_and_a_key_open_it(self, host: Host, with_key: bool) -> None:
        publish = "127.0.0.1:8000"
        if with_key:
            publish = "8000"
            drawn = Secret.draw()
            with closing(RedisKeyStore.from_settings(host.settings)) as keys:
                spec = KeySpec(name="me", tenant="default", scope=Scope.Admin, sha256=drawn.sha256)
                keys.create(drawn.id, spec, expires_s=None)
        port = free_port()
        process = host.start("api", host="0.0.0.0", port=port, publish=publish)
        eventually(lambda: host.healthy("api", host="0.0.0.0", port=port) or process.poll() is not None)
        assert process.poll() is None, host.log("api").read_text()

    def test_a_port_that_is_taken(self, host: Host) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            line = host.refused("start", "api", port=port)
        assert f"Port {port} of 127.0.0.1 is in use" in line
        assert "Set IHVP_HOST and IHVP_PORT" in line
        assert "--port" not in line


class TestPlace:
    @pytest.fixture
    def client_alone(self, host: Host) -> Iterator[None]:
        """The package as pip installs it: without the rooms of the service."""
        site = host.folder / "site"
        shutil.copytree(ROOT / "ihvp", site / "ihvp", ignore=shutil.ignore_patterns("__pycache__"))
        host.environment["PYTHONPATH"] = str(site)
        host.root = host.folder
        return

    @pytest.mark.usefixtures("client_alone")
    @pytest.mark.parametrize("part", PARTS)
    def test_the_client_alone(self, host: Host, part: str) -> None:
        assert "this is the client alone" in host.refused("start", part)

    def test_a_folder_for_temporary_files_that_is_not_there(self, host: Host) -> None:
        line = host.refused("start", "reconciler", alive_file=host.folder / "not there" / "alive")
        assert "Mount a tmpfs at /tmp" in line
