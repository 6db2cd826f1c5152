"""Each check of the doctor, with the thing it looks at really broken: it says so, and what mends it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from ihvp import __version__, surroundings
from ihvp.doctor import Finding, Health, runtime
from ihvp.doctor import machine as machine_checks
from ihvp.doctor import store as doctor_store
from ihvp.doctor.access import look_at_access
from ihvp.doctor.machine import look_at_clock, look_at_disk, look_at_port
from ihvp.doctor.runtime import look_at_device, look_at_python, look_at_torch, torch_facts
from ihvp.doctor.store import look_at_store
from ihvp.keys.key import KeySpec, Scope, Secret
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.settings import Settings
from ihvp.up import embedded_store
from ihvp.up.embedded_store import EmbeddedStore, free_port
from tests.app.driver import running_api

GPU = {"name": "H100", "bytes": 80 * 2**30}


def settings(**given: Any) -> Settings:
    return Settings(**{"redis_url": "redis://127.0.0.1:1/0", **given})


def says(finding: Finding, health: Health, *words: str) -> None:
    assert finding.health is health, finding
    for word in words:
        assert word in f"{finding.found} {finding.mend or ''}"
    assert (finding.mend is None) == (health is Health.Ok)


class TestPython:
    def test_this_one(self) -> None:
        assert look_at_python().health in (Health.Ok, Health.Warning)

    def test_one_that_is_too_old(self) -> None:
        says(look_at_python((3, 10, 4), "/usr"), Health.Fault, "3.10.4", "install Python 3.11")


class TestTorch:
    def test_the_installed_one(self) -> None:
        facts = torch_facts()
        says(look_at_torch(facts), Health.Ok, facts["version"])

    def test_none(self) -> None:
        says(look_at_torch({}), Health.Warning, "client alone", "make setup")

    def test_the_image_of_the_api_needs_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings.sys, "prefix", "/opt/ihvp")
        monkeypatch.setattr(surroundings, "find_spec", lambda _: None)
        says(look_at_torch({}), Health.Ok, "as it should be")
        says(look_at_device(settings(device="cuda"), {}), Health.Ok, "for workers")

    def test_the_image_of_workers_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings.sys, "prefix", "/opt/ihvp")
        says(look_at_device(settings(device="cuda"), {}), Health.Fault, "no GPU", "neither the profile gpu")

    def test_one_that_cannot_be_imported(self) -> None:
        facts = torch_facts("raise ImportError('libtorch_cpu.so: file too short')")
        says(look_at_torch(facts), Health.Fault, "libtorch_cpu.so: file too short", "--force-reinstall")

    def test_one_that_ends_the_process(self) -> None:
        says(look_at_torch(torch_facts("import os; os._exit(139)")), Health.Fault, "139")


class TestDevice:
    def test_the_processor(self) -> None:
        says(look_at_device(settings(threads=1), {"devices": []}), Health.Ok, "cpu", "1 workers of 1 threads")

    def test_more_threads_than_cores(self) -> None:
        says(look_at_device(settings(threads=999), {"devices": []}), Health.Warning, "999", "unset IHVP_THREADS")

    def test_a_gpu_that_is_not_there(self) -> None:
        no_build = {"version": "2.13.0+cpu", "built_for_cuda": None, "devices": []}
        says(look_at_device(settings(device="cuda"), no_build), Health.Fault, "no GPU", "pip install torch")
        no_driver = {**no_build, "built_for_cuda": "12.8"}
        says(look_at_device(settings(device="cuda"), no_driver), Health.Fault, "nvidia-smi", "IHVP_DEVICE=cpu")

    def test_a_gpu_of_another_number(self) -> None:
        says(look_at_device(settings(device="cuda:3"), {"devices": [GPU]}), Health.Fault, "H100", "IHVP_DEVICE=cuda:0")

    @pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
    def test_a_gpu_that_is_there(self, device: str) -> None:
        says(look_at_device(settings(device=device), {"devices": [GPU]}), Health.Ok, "H100")

    def test_a_gpu_that_nobody_uses(self) -> None:
        says(look_at_device(settings(threads=1), {"devices": [GPU]}), Health.Warning, "H100", "IHVP_DEVICE=auto")


class TestStore:
    def test_the_one_that_up_starts(self) -> None:
        finding, there = look_at_store(Settings())
        says(finding, Health.Ok, "ihvp up starts")
        assert there is None

    def test_none_to_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(embedded_store, "find_spec", lambda _: None)
        says(look_at_store(Settings())[0], Health.Fault, "No server", "ihvp[embedded]", "IHVP_REDIS_URL")

    def test_a_durable_one(self, own_server: EmbeddedStore) -> None:
        finding, there = look_at_store(settings(redis_url=own_server.url))
        says(finding, Health.Ok, "a write takes")
        assert there == pytest.approx(time.time(), abs=2)

    def test_one_that_forgets(self, tmp_path: Path) -> None:
        server = EmbeddedStore(tmp_path)
        server.start()
        try:
            client = redis.Redis.from_url(server.url)
            client.config_set("appendfsync", "everysec")
            client.config_set("maxmemory-policy", "allkeys-lru")
            finding, _ = look_at_store(settings(redis_url=server.url))
        finally:
            server.stop()
        says(finding, Health.Warning, "evict accepted jobs", "appendfsync always", "maxmemory-policy noeviction")

    def test_one_of_another_version_of_ihvp(self, valkey: Settings) -> None:
        redis.Redis.from_url(valkey.redis_url).set(f"{{{valkey.namespace}}}:schema", "99")
        finding, _ = look_at_store(settings(redis_url=valkey.redis_url, namespace=valkey.namespace))
        says(finding, Health.Fault, "(schema 99", "IHVP_NAMESPACE")
        redis.Redis.from_url(valkey.redis_url).set(f"{{{valkey.namespace}}}:version", "7.8.9")
        finding, _ = look_at_store(settings(redis_url=valkey.redis_url, namespace=valkey.namespace))
        says(finding, Health.Fault, "(7.8.9, schema 99", f"this {__version__} reads")

    def test_one_that_is_away(self) -> None:
        url = f"redis://127.0.0.1:{free_port()}/0"
        says(look_at_store(settings(redis_url=url))[0], Health.Fault, "does not answer", "unset IHVP_REDIS_URL")

    def test_in_our_container_it_is_started_with_compose(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings.sys, "prefix", "/opt/ihvp")
        monkeypatch.setattr(doctor_store, "PATIENCE_S", 1.0)
        url = f"redis://127.0.0.1:{free_port()}/0"
        says(look_at_store(settings(redis_url=url))[0], Health.Fault, "docker compose up -d valkey")

    def test_in_our_container_one_that_comes_late_is_waited_for(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(surroundings.sys, "prefix", "/opt/ihvp")
        server = EmbeddedStore(tmp_path)
        server.start()
        url = server.url
        server.stop()
        late = threading.Timer(2.0, server.start)
        late.start()
        try:
            says(look_at_store(settings(redis_url=url))[0], Health.Ok, "a write takes")
        finally:
            late.join()
            server.stop()

    def test_in_our_container_one_that_refuses_is_not_waited_for(
        self, monkeypatch: pytest.MonkeyPatch, valkey_server: EmbeddedStore, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(surroundings.sys, "prefix", "/opt/ihvp")
        monkeypatch.setattr(doctor_store, "PATIENCE_S", 600.0)
        url = f"redis://127.0.0.1:{valkey_server.port}/0"
        says(look_at_store(settings(redis_url=url, secrets_dir=tmp_path))[0], Health.Fault, "asks for a password")

    def test_a_missing_password_names_the_file_to_put_it_in(
        self, valkey_server: EmbeddedStore, tmp_path: Path
    ) -> None:
        url = f"redis://127.0.0.1:{valkey_server.port}/0"
        finding, _ = look_at_store(settings(redis_url=url, secrets_dir=tmp_path))
        says(finding, Health.Fault, "asks for a password", str(tmp_path / "ihvp_store_password"), "ihvp prepare")

    def test_a_wrong_password_is_not_shown(self, valkey_server: EmbeddedStore) -> None:
        url = f"redis://:wrong-secret@127.0.0.1:{valkey_server.port}/0"
        finding, _ = look_at_store(settings(redis_url=url))
        says(finding, Health.Fault, "PASSWORD")
        assert "wrong-secret" not in finding.model_dump_json()


class TestPort:
    def test_a_free_one(self) -> None:
        says(look_at_port(settings(port=free_port())), Health.Ok, "is free")
        says(look_at_port(settings(port=0)), Health.Ok, "picked")

    def test_one_that_another_program_has(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            finding = look_at_port(settings(port=taken.getsockname()[1]))
        says(finding, Health.Fault, "another program", "--port 0")

    def test_one_that_the_service_has(self, valkey: Settings) -> None:
        with running_api(valkey) as url:
            port = int(url.rsplit(":", 1)[1])
            says(look_at_port(settings(port=port)), Health.Ok, "an ihvp service answers")

    def test_an_address_that_is_not_ours(self) -> None:
        says(look_at_port(settings(host="192.0.2.1", port=8000)), Health.Fault, "cannot be bound", "IHVP_HOST")


class TestAccess:
    def test_the_loopback(self) -> None:
        says(look_at_access(settings(), False), Health.Ok, "only this machine")
        published = settings(host="0.0.0.0", publish="127.0.0.1:8000")
        says(look_at_access(published, False), Health.Ok, "only this machine")

    @pytest.mark.parametrize("publish", ["8000", "0.0.0.0:80", "[::]:80", "192.0.2.1:8000"])
    def test_others_with_and_without_a_key(self, valkey: Settings, publish: str) -> None:
        open_to_all = valkey.model_copy(update={"publish": publish})
        says(look_at_access(open_to_all, True), Health.Fault, "does not start", "ihvp keys create")
        with closing(RedisKeyStore.from_settings(valkey)) as keys:
            drawn = Secret.draw()
            keys.create(
                drawn.id, KeySpec(name="me", tenant="default", scope=Scope.Admin, sha256=drawn.sha256), expires_s=None
            )
        says(look_at_access(open_to_all, True), Health.Ok, "need a key")

    def test_a_store_that_is_away(self) -> None:
        says(look_at_access(settings(host="0.0.0.0"), False), Health.Warning, "without the store")


class TestDisk:
    def test_a_folder_that_is_still_to_be_made(self, tmp_path: Path) -> None:
        finding = look_at_disk(settings(data_dir=tmp_path / "not" / "yet", max_store_bytes=1))
        assert finding.health in (Health.Ok, Health.Warning)
        assert "synced write" in finding.found
        assert list(tmp_path.iterdir()) == []

    def test_one_that_takes_no_file(self) -> None:
        says(look_at_disk(settings(data_dir=Path("/proc/ihvp-data"))), Health.Fault, "/proc", "IHVP_DATA_DIR")

    def test_a_bound_that_the_disk_cannot_hold(self, tmp_path: Path) -> None:
        finding = look_at_disk(settings(data_dir=tmp_path, max_store_bytes=2**60))
        says(finding, Health.Warning, "blobs may take", "IHVP_MAX_STORE_BYTES=")

    def test_a_full_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
        monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _: usage)
        says(look_at_disk(settings(data_dir=tmp_path)), Health.Fault, "0.0 GiB free", "make room")


class TestClock:
    def test_the_right_time(self) -> None:
        says(look_at_clock(time.time() - 0.01), Health.Ok, "from the store's")
        says(look_at_clock(None), Health.Ok, "no store")

    @pytest.mark.parametrize(("off", "side"), [(30.0, "ahead of"), (-30.0, "behind")])
    def test_one_that_disagrees_with_the_store(self, off: float, side: str) -> None:
        now = time.time()
        says(look_at_clock(now, now + off), Health.Warning, f"30.0 s {side}", "set-ntp")

    def test_one_that_never_was_set(self) -> None:
        says(look_at_clock(None, 3600.0), Health.Fault, "1970-01-01", "set-ntp")


class TestOurContainers:
    """What mends a thing there is done on the host: no remedy may name what an image has not."""

    NOT_THERE = ("export ", "unset ", "pip install", "make setup", "ihvp up", "redis-cli", "set IHVP_DATA_DIR")

    @pytest.fixture(autouse=True)
    def ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings.sys, "prefix", "/opt/ihvp")

    def test_a_remedy_is_one_of_the_host(
        self, own_server: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = redis.Redis.from_url(own_server.url)
        client.config_set("appendfsync", "everysec")
        there = {"redis_url": own_server.url, "namespace": "t-ours", "data_dir": tmp_path, "port": 0}
        cpu_build = {"version": "2.13.0+cpu", "built_for_cuda": None, "devices": []}
        findings = [
            look_at_torch({"error": "libtorch_cpu.so: file too short"}),
            look_at_device(settings(device="cuda"), cpu_build),
            look_at_device(settings(device="cuda"), {**cpu_build, "built_for_cuda": "12.8"}),
            look_at_device(settings(device="cuda:3"), {**cpu_build, "devices": [GPU]}),
            look_at_device(settings(threads=1), {**cpu_build, "devices": [GPU]}),
            look_at_device(settings(threads=999), cpu_build),
            look_at_store(settings(**there))[0],
            look_at_store(settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))[0],
            look_at_store(settings(redis_url=f"redis://:wrong@{own_server.url.rpartition('@')[2]}"))[0],
            look_at_store(settings(redis_url=f"redis://{own_server.url.rpartition('@')[2]}"))[0],
            look_at_access(settings(host="0.0.0.0"), store_there=False),
            look_at_disk(settings(data_dir=Path("/proc/ihvp-data"))),
            look_at_disk(settings(data_dir=tmp_path, max_store_bytes=2**60)),
            look_at_clock(None, 3600.0),
        ]
        client.set("{t-ours}:schema", "99")
        findings.append(look_at_store(settings(**there))[0])
        usage = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
        monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _: usage)
        findings.append(look_at_disk(settings(data_dir=tmp_path)))
        for finding in findings:
            assert finding.mend is not None, finding
            assert [words for words in self.NOT_THERE if words in finding.mend] == [], finding

    def test_a_setting_goes_into_the_file_that_compose_reads(self, tmp_path: Path) -> None:
        finding = look_at_disk(settings(data_dir=tmp_path, max_store_bytes=2**60))
        says(finding, Health.Warning, "IHVP_MAX_STORE_BYTES=", "in .env", "docker compose up -d")

    def test_a_container_has_one_worker_and_the_cores_that_it_is_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime, "usable_cores", lambda: 4)
        monkeypatch.setattr(runtime.os, "cpu_count", lambda: 8)
        says(look_at_device(settings(workers=2, threads=4), {"devices": []}), Health.Ok, "4 cores")
        says(look_at_device(settings(workers=2, threads=5), {"devices": []}), Health.Warning, "IHVP_THREADS in .env")
        says(look_at_device(settings(workers=3, threads=4), {"devices": []}), Health.Warning, "IHVP_THREADS in .env")
