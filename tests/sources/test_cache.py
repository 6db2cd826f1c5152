"""The cache of fetched files: complete or not there, within its bound, fetched once however many ask."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from ihvp.errors import OutOfSpace, SourceChanged, SourceTooLarge, SourceTruncated, SourceUnavailable
from ihvp.settings import Settings
from ihvp.sources.pin import SourcePin
from ihvp.sources.sources import Sources
from tests.sources.web_server import WebServer
from workers.resolvers.files import Files, local_folder
from workers.resolvers.source_cache import SourceCache

ROOT = Path(__file__).parents[2]
DATA = bytes(range(256)) * 4096

FETCH = """
import sys, structlog
from ihvp.settings import Settings
from ihvp.sources.pin import SourcePin
from workers.resolvers.source_cache import SourceCache
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
settings, uri, pin = Settings.model_validate_json(sys.argv[1]), sys.argv[2], SourcePin.model_validate_json(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
print(SourceCache(settings).get(uri, pin).sha256, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def cache(settings: Settings) -> SourceCache:
    return SourceCache(settings)


def pinned(settings: Settings, *uris: str) -> list[tuple[str, SourcePin]]:
    sources = Sources.to_look(settings)
    return [(uri, sources.pin(uri)) for uri in uris]


def kept(settings: Settings) -> list[Path]:
    """All that is there; locks go with those who hold them."""
    return list(settings.source_cache_dir.iterdir())


def worker(settings: Settings, uri: str, pin: SourcePin) -> subprocess.Popen[str]:
    arguments = [settings.model_dump_json(exclude={"api_key"}), uri, pin.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_file_is_fetched_once_and_read_without_its_place(
    web: WebServer, settings: Settings, cache: SourceCache
) -> None:
    [(uri, pin)] = pinned(settings, web.put("/x.npy", DATA))
    with cache.get(uri, pin)._held:
        pass
    del web.files["/x.npy"]
    again = SourceCache(settings).get(uri, pin)
    assert again.path.read_bytes() == DATA
    assert again.sha256 == hashlib.sha256(DATA).hexdigest()
    assert web.fetched("/x.npy") == 1


def test_two_workers_fetch_once(web: WebServer, settings: Settings) -> None:
    [(uri, pin)] = pinned(settings, web.put("/x.npy", DATA * 8))
    workers = [worker(settings, uri, pin) for _ in range(2)]
    for process in workers:
        tell(process)
    digests = [process.stdout.readline().strip() for process in workers if process.stdout]
    for process in workers:
        tell(process)
        assert process.wait(10) == 0
    assert digests == [hashlib.sha256(DATA * 8).hexdigest()] * 2
    assert web.fetched("/x.npy") == 1


def test_a_worker_killed_in_the_middle_leaves_nothing_that_counts(web: WebServer, settings: Settings) -> None:
    [(uri, pin)] = pinned(settings, web.put("/x.npy", DATA))
    web.stalled["/x.npy"] = 300_000
    killed = worker(settings, uri, pin)
    tell(killed)
    until = time.monotonic() + 10
    while not (settings.source_cache_dir.is_dir() and any(p.suffix == ".part" for p in kept(settings))):
        assert time.monotonic() < until
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    web.stalled.clear()
    other, other_pin = pinned(settings, web.put("/y.npy", DATA))[0]
    found = [SourceCache(settings).get(other, other_pin), SourceCache(settings).get(uri, pin)]
    assert [file.path.read_bytes() == DATA for file in found] == [True, True]
    assert [path.suffix for path in kept(settings)] == ["", ""]


def test_what_was_pinned_otherwise_is_another_file(web: WebServer, settings: Settings, cache: SourceCache) -> None:
    [(uri, old)] = pinned(settings, web.put("/x.npy", b"old"))
    first = cache.get(uri, old)
    [(uri, new)] = pinned(settings, web.put("/x.npy", b"new"))
    assert (first.path.read_bytes(), cache.get(uri, new).path.read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("found", [b"other!", b"longer than it was", b"short"])
def test_nothing_is_kept_of_what_is_not_as_pinned(
    web: WebServer, settings: Settings, cache: SourceCache, found: bytes
) -> None:
    uri = web.put("/x.npy", found)
    for pin in (
        SourcePin(size=6, etag=f'"{hashlib.md5(b"pinned").hexdigest()}"'),
        SourcePin(size=6, sha256=hashlib.sha256(b"pinned").hexdigest()),
    ):
        with pytest.raises(SourceChanged):
            cache.get(uri, pin)
    assert kept(settings) == []


def test_nothing_is_kept_of_what_breaks_off(web: WebServer, settings: Settings) -> None:
    [(uri, pin)] = pinned(settings, web.put("/x.npy", DATA))
    web.cut = [300_000] + [0] * 10
    with pytest.raises((SourceUnavailable, SourceTruncated)):
        SourceCache(settings, pauses=()).get(uri, pin)
    assert list(settings.source_cache_dir.iterdir()) == []


def test_a_place_that_is_away_for_a_moment_costs_a_moment(web: WebServer, settings: Settings) -> None:
    [(uri, pin)] = pinned(settings, web.put("/x.npy", DATA))
    web.cut = [300_000] + [0] * 5
    assert SourceCache(settings, pauses=(0.01, 0.01)).get(uri, pin).path.read_bytes() == DATA


def test_a_file_that_is_written_to_while_it_is_read(root: Path, settings: Settings) -> None:
    (root / "x.npy").write_bytes(DATA)

    class Meddling(Sources):
        def open(self, uri: str, pin: SourcePin) -> BinaryIO:
            content = super().open(uri, pin).read()
            (root / "x.npy").write_bytes(DATA[::-1])
            return io.BytesIO(content)

    [(uri, pin)] = pinned(settings, f"file://{root}/x.npy")
    with pytest.raises(SourceChanged):
        SourceCache(settings, Meddling.to_fetch(settings)).get(uri, pin)
    assert kept(settings) == []


def test_the_longest_unused_goes_first_and_never_what_is_in_use(web: WebServer, settings: Settings) -> None:
    small = settings.model_copy(update={"source_cache_bytes": 3500})
    cache = SourceCache(small)
    files = pinned(small, *(web.put(f"/{n}.npy", bytes([n]) * 1000) for n in range(5)))
    held = cache.get(*files[0])
    for number in (1, 2):
        cache.get(*files[number]).close()
    cache.get(*files[1]).close()
    cache.get(*files[3]).close()  # in the place of 2, which was used before 1
    asked = len(web.requests)
    assert cache.get(*files[0]).path == held.path
    cache.get(*files[1]).close()
    assert len(web.requests) == asked
    assert sum(path.stat().st_size for path in kept(small)) == 3000
    others = [cache.get(*files[1]), cache.get(*files[3])]
    with pytest.raises(OutOfSpace, match="IHVP_SOURCE_CACHE_BYTES"):
        cache.get(*files[4])
    for file in others:
        file.close()
    assert cache.get(*files[4]).path.read_bytes() == bytes([4]) * 1000
    assert held.path.exists()


def test_a_file_larger_than_the_cache(web: WebServer, settings: Settings) -> None:
    small = settings.model_copy(update={"source_cache_bytes": 500})
    with pytest.raises(SourceTooLarge, match="IHVP_SOURCE_CACHE_BYTES"):
        SourceCache(small).get(*pinned(small, web.put("/x.npy", bytes(501)))[0])


def test_a_disk_that_is_full(web: WebServer, settings: Settings) -> None:
    full = settings.model_copy(update={"keep_free_bytes": 2**60})
    with pytest.raises(OutOfSpace):
        SourceCache(full).get(*pinned(full, web.put("/x.npy", DATA))[0])
    assert kept(full) == []


def test_a_folder_has_the_pinned_files_under_their_names(root: Path, settings: Settings) -> None:
    (root / "model" / "below").mkdir(parents=True)
    (root / "model" / "config file.json").write_bytes(b"{}")
    (root / "model" / "below" / "x.parquet").write_bytes(b"PAR1")
    uri = f"file://{root}/model"
    from ihvp.sources.pinning import pin_references

    pins = pin_references([uri], {}, Sources.to_look(settings))
    files = Files(None, SourceCache(settings), pins)  # type: ignore[arg-type]
    with local_folder(files, uri, pins) as folder:
        assert (folder / "config file.json").read_bytes() == b"{}"
        assert (folder / "below" / "x.parquet").read_bytes() == b"PAR1"
    assert not folder.exists()
    assert json.loads(json.dumps({u: p.sha256 for u, p in files.fetched().items()})).keys() == pins.keys()
