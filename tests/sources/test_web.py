"""Files on the web: what is fetched, what is refused, and what a bad server or line costs."""

from __future__ import annotations

import time

import pytest

from ihvp.errors import (
    IhvpError,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotAllowed,
    SourceNotFound,
    SourceTimeout,
    SourceTruncated,
    SourceUnavailable,
)
from ihvp.settings import Settings
from ihvp.sources.pinning import pin_references
from ihvp.sources.sources import Sources
from tests.sources.web_server import WebServer

DATA = bytes(range(256)) * 4096


def test_a_file_is_pinned_without_its_bytes_and_read_in_parts(web: WebServer, settings: Settings) -> None:
    uri, sources = web.put("/x.npy", DATA), Sources.to_look(settings)
    pin = sources.pin(uri)
    assert pin.size == len(DATA)
    assert pin.etag
    with sources.open(uri, pin) as file:
        assert file.read(4) == DATA[:4]
        file.seek(-5, 2)
        assert file.read() == DATA[-5:]
    assert web.requests == ["/x.npy bytes=0-0", "/x.npy bytes=0-", f"/x.npy bytes={len(DATA) - 5}-"]


def test_reading_on_asks_once(web: WebServer, settings: Settings) -> None:
    uri, sources = web.put("/x.npy", DATA), Sources.to_look(settings)
    with sources.open(uri, sources.pin(uri)) as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == DATA
    assert len(web.requests) == 2


def test_a_server_without_ranges_serves_too(web: WebServer, settings: Settings) -> None:
    web.ranges = False
    uri, sources = web.put("/x.npy", DATA), Sources.to_look(settings)
    with sources.open(uri, sources.pin(uri)) as file:
        file.seek(500_000)
        assert file.read(10) == DATA[500_000:500_010]


def test_an_empty_file(web: WebServer, settings: Settings) -> None:
    uri, sources = web.put("/x.npy", b""), Sources.to_look(settings)
    with sources.open(uri, sources.pin(uri)) as file:
        assert file.read() == b""


def test_a_line_that_drops_is_taken_up_where_it_was(web: WebServer, settings: Settings) -> None:
    uri, sources = web.put("/x.npy", DATA), Sources.to_look(settings)
    pin = sources.pin(uri)
    web.cut = [300_000, 200_000]
    with sources.open(uri, pin) as file:
        assert file.read() == DATA
    assert len(web.requests) == 4


def test_a_server_that_cuts_every_answer_short(web: WebServer, settings: Settings) -> None:
    uri, sources = web.put("/x.npy", DATA), Sources.to_look(settings)
    pin = sources.pin(uri)
    web.cut = [1000, 0, 0, 0, 0, 0]
    with sources.open(uri, pin) as file, pytest.raises((SourceTruncated, SourceUnavailable)):
        file.read()


@pytest.mark.parametrize("after", [b"another" + DATA[7:], DATA + b"!", DATA[:-1], b""])
def test_a_file_that_has_changed(web: WebServer, settings: Settings, after: bytes) -> None:
    uri, sources = web.put("/x.npy", DATA), Sources.to_look(settings)
    pin = sources.pin(uri)
    web.put("/x.npy", after)
    with sources.open(uri, pin) as file, pytest.raises(SourceChanged, match="Submit the job again"):
        file.read()


def test_a_file_without_a_validator_is_pinned_by_its_digest(web: WebServer, settings: Settings) -> None:
    web.validators = False
    uri = web.put("/x.npy", b"abc")
    pins = pin_references([uri], {}, Sources.to_look(settings))
    assert pins[uri].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, SourceNotFound),
        (410, SourceNotFound),
        (401, SourceForbidden),
        (403, SourceForbidden),
        (418, SourceError),
        (429, SourceUnavailable),
        (503, SourceUnavailable),
    ],
)
def test_what_the_server_refuses(web: WebServer, settings: Settings, status: int, error: type[IhvpError]) -> None:
    web.statuses["/x.npy"] = status
    with pytest.raises(error) as caught:
        Sources.to_look(settings).pin(f"{web.url}/x.npy?signature=secret")
    assert caught.value.code == error.code
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there(web: WebServer, settings: Settings) -> None:
    with pytest.raises(SourceUnavailable):
        Sources.to_look(settings).pin("http://127.0.0.1:9/x.npy")


def test_a_server_that_does_not_answer_costs_the_time_limit(web: WebServer, settings: Settings) -> None:
    hasty = settings.model_copy(update={"source_timeout_s": 0.3})
    web.hung.add("/x.npy")
    began = time.monotonic()
    with pytest.raises(SourceTimeout, match="IHVP_SOURCE_TIMEOUT_S"):
        Sources.to_look(hasty).pin(f"{web.url}/x.npy")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "uri",
    [
        "https://data.example.org/x.npy",
        "http://data.example.org/x.npy",
        "https://127.0.0.1/x.npy",
        "http://169.254.169.254/latest/meta-data",
        "https://localhost/x.npy",
    ],
)
def test_nothing_is_reached_unless_it_is_listed(uri: str) -> None:
    with pytest.raises(SourceNotAllowed, match="IHVP_SOURCE_HOSTS"):
        Sources.to_look(Settings()).pin(uri)


def test_http_is_for_private_hosts_that_are_listed() -> None:
    with pytest.raises(SourceNotAllowed):
        Sources.to_look(Settings(source_hosts=("*",))).pin("http://data.example.org/x.npy")


@pytest.mark.parametrize("uri", ["https://localhost:9/x.npy", "https://127.1/x.npy", "https://[::1]/x.npy"])
def test_a_public_host_that_stands_for_a_private_address(uri: str) -> None:
    with pytest.raises(SourceNotAllowed, match="IHVP_SOURCE_PRIVATE_HOSTS"):
        Sources.to_look(Settings(source_hosts=("*",))).pin(uri)


@pytest.mark.parametrize(
    "to",
    ["http://127.0.0.2/secret", "http://169.254.169.254/latest/", "https://elsewhere.example/x", "file:///etc/passwd"],
)
def test_a_redirect_leads_only_where_a_reference_may(web: WebServer, settings: Settings, to: str) -> None:
    web.redirects["/x.npy"] = to
    with pytest.raises(SourceNotAllowed):
        Sources.to_look(settings).pin(f"{web.url}/x.npy")


@pytest.mark.parametrize(
    "to", ["https://169.254.169.254/latest/meta-data", "https://[::1]/secret", "https://10.1.2.3/"]
)
def test_a_redirect_to_a_private_address_where_any_public_host_is_open(web: WebServer, to: str) -> None:
    web.redirects["/x.npy"] = to
    with pytest.raises(SourceNotAllowed, match="private or special"):
        Sources.to_look(Settings(source_private_hosts=("127.0.0.1",), source_hosts=("*",))).pin(f"{web.url}/x.npy")


def test_a_redirect_is_followed_and_a_circle_is_not(web: WebServer, settings: Settings) -> None:
    web.put("/x.npy", DATA)
    web.redirects |= {"/latest": "/x.npy", "/a": "/b", "/b": "/a", "/c": "http://[nowhere", "/d": "https://h:port/x"}
    assert Sources.to_look(settings).pin(f"{web.url}/latest").size == len(DATA)
    with pytest.raises(SourceError, match="again and again"):
        Sources.to_look(settings).pin(f"{web.url}/a")
    with pytest.raises(SourceNotAllowed):
        Sources.to_look(settings).pin(f"{web.url}/c")
    with pytest.raises(SourceUnavailable, match="location header"):
        Sources.to_look(settings).pin(f"{web.url}/d")
