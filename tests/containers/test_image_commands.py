"""The very command line of each image, run from a tree that is laid out as the image lays it out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ihvp.settings import Settings, child_environment
from ihvp.up.embedded_store import free_port
from tests.app.driver import Service
from tests.containers.dockerfile import ROOT, Dockerfile

STARTS_IN_S = 60.0
STOPS_IN_S = 20.0


@dataclass
class Tree:
    """An image's files of ours in a folder, and how a container of it would be started."""

    folder: Path
    settings: Settings
    port: int
    command: list[str]
    variables: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """The image's, but for the folders and the port, which are this test's."""
        fixed = {name: value for name, value in self.variables.items() if name.startswith(("IHVP_", "PYTHON"))}
        return child_environment() | fixed | {
            "IHVP_REDIS_URL": self.settings.redis_url,
            "IHVP_NAMESPACE": self.settings.namespace,
            "IHVP_DATA_DIR": str(self.settings.data_dir),
            "IHVP_PORT": str(self.port),
            # As the compose file says it of the port that it publishes.
            "IHVP_PUBLISH": f"127.0.0.1:{self.port}",
            "PYTHONPATH": str(self.folder),
            "WITNESS": str(self.folder / "witness"),
            # A tmpfs in a container.
            "TMPDIR": str(self.folder / "tmp"),
        }  # fmt: skip

    def words(self, *arguments: str) -> list[str]:
        """``ihvp`` with these arguments, as the image's entry point has it; tini forwards signals and does no more."""
        assert self.command[:3] == ["tini", "--", "ihvp"]
        return [str(Path(sys.executable).with_name("ihvp")), *arguments]

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A container's process, ended by the signal that ends a container; it has to end by itself, and well."""
        log = self.folder / f"{arguments[-1]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.words(*arguments), cwd=self.folder, env=self.environment, stdout=file, stderr=file
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            status = process.wait(STOPS_IN_S)
            assert status in (0, -signal.SIGTERM), log.read_text()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def answers(self, path: str) -> bool:
        """Whether the API says 200 there."""
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}").status_code == 200
        return False

    def healthy(self, part: str) -> bool:
        """What the compose file's healthcheck asks."""
        asked = subprocess.run(
            self.words("healthy", part), cwd=self.folder, env=self.environment, capture_output=True, timeout=30
        )
        return asked.returncode == 0

    def imported(self, room: str) -> bool:
        """Whether a process has imported that room from here."""
        witness = self.folder / "witness"
        return witness.exists() and f"{self.folder / room}/__init__.py" in witness.read_text().splitlines()


def tree(file: str, stage: str, folder: Path, settings: Settings) -> Tree:
    dockerfile = Dockerfile(ROOT / f"docker/{file}.Dockerfile")
    dockerfile.lay_out(stage, "/srv/ihvp", folder)
    for room in ("app", "ihvp", "workers"):
        if (folder / room).exists():
            with (folder / room / "__init__.py").open("a", encoding="utf-8") as module:
                module.write(
                    "\nimport os as _os\n"
                    "with open(_os.environ['WITNESS'], 'a') as _witness:\n    print(__file__, file=_witness)\n"
                )
    settings.data_dir.mkdir(exist_ok=True)
    (folder / "tmp").mkdir()
    return Tree(folder, settings, free_port(), dockerfile.command(stage), dockerfile.environment(stage))


@pytest.fixture
def api_tree(tmp_path: Path, valkey: Settings) -> Tree:
    """The API's image, where torch cannot be imported."""
    made = tree("api", "final", tmp_path / "api", valkey)
    (made.folder / "torch.py").write_text("raise ImportError('the image has no torch')\n", encoding="utf-8")
    return made


@pytest.fixture
def worker_tree(tmp_path: Path, valkey: Settings) -> Tree:
    return tree("worker", "cpu", tmp_path / "worker", valkey)


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until it holds; the process must live meanwhile."""
    end = time.monotonic() + STARTS_IN_S
    while not holds():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_images_hold_what_their_parts_import_and_no_more(api_tree: Tree, worker_tree: Tree) -> None:
    rooms = {"app", "ihvp", "solvers", "workers"}
    assert {path.name for path in api_tree.folder.iterdir()} & rooms == {"app", "ihvp", "workers"}
    assert {path.name for path in worker_tree.folder.iterdir()} & rooms == {"ihvp", "solvers", "workers"}


def test_the_apis_image_answers(api_tree: Tree) -> None:
    assert api_tree.command == ["tini", "--", "ihvp", "start", "api"]
    with api_tree.started("start", "api") as process:
        until(lambda: api_tree.answers("/healthz"), process, api_tree.folder / "api.log")
        assert api_tree.healthy("api")
        assert Path(f"/proc/{process.pid}/cwd").readlink() == api_tree.folder
    assert api_tree.imported("app")
    assert api_tree.imported("ihvp")


@pytest.mark.parametrize("part", ["reconciler", "webhooks"])
def test_the_apis_image_runs_the_parts_without_torch(api_tree: Tree, part: str) -> None:
    with api_tree.started("start", part) as process:
        until(lambda: api_tree.imported("workers"), process, api_tree.folder / f"{part}.log")
        time.sleep(2.0)
        assert process.poll() is None, (api_tree.folder / f"{part}.log").read_text()
        assert api_tree.healthy(part)


def test_a_job_goes_through_both_images(api_tree: Tree, worker_tree: Tree) -> None:
    assert worker_tree.command == ["tini", "--", "ihvp", "start", "worker"]
    url = f"http://127.0.0.1:{api_tree.port}"
    with ExitStack() as parts:
        api = parts.enter_context(api_tree.started("start", "api"))
        worker = parts.enter_context(worker_tree.started("start", "worker"))
        until(lambda: api_tree.answers("/readyz"), api, worker_tree.folder / "worker.log")
        assert worker_tree.healthy("worker")
        http = parts.enter_context(httpx.Client(base_url=url, timeout=30))
        caller = Service(api_tree.settings, http, None, None)  # type: ignore[arg-type]  # only HTTP is used
        job = caller.submit()
        seen: dict[str, object] = {}

        def ended() -> bool:
            seen.update(http.get(f"/v1/jobs/{job['id']}", params={"wait": 5}).json())
            return seen["state"] in ("succeeded", "failed", "cancelled")

        until(ended, worker, worker_tree.folder / "worker.log")
        assert seen["state"] == "succeeded", seen
    assert worker_tree.imported("workers")
