"""Which hosts the service connects to on a caller's word: each class of address, each spelling, each connection."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import httpx
import pytest

from ihvp.addresses import AddressRules, CheckedTransport
from ihvp.errors import AddressNotAllowed
from tests.webhooks.receiver import receiving

REFUSED = {
    "loopback": "127.0.0.1",
    "loopback beyond": "127.8.8.8",
    "private 10": "10.1.2.3",
    "private 172": "172.31.255.255",
    "private 192": "192.168.1.1",
    "metadata": "169.254.169.254",
    "carrier-grade NAT": "100.64.0.1",
    "this network": "0.0.0.0",
    "benchmarking": "198.18.0.1",
    "documentation": "192.0.2.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "IPv6 link-local": "fe80::1",
    "IPv6 unique local": "fd00:ec2::254",
    "IPv6 site-local": "fec0::1",
    "IPv6 multicast": "ff02::1",
    "IPv6 documentation": "2001:db8::1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped metadata": "::ffff:169.254.169.254",
    "IPv4-compatible": "::127.0.0.1",
    "6to4 of a private one": "2002:a00:1::",
    "Teredo": "2001:0:4136:e378::1",
    "NAT64 of loopback": "64:ff9b::7f00:1",
    "NAT64 of metadata": "64:ff9b::a9fe:a9fe",
}
SPELLINGS = ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
def test_no_address_that_is_not_public_is_reached(address: str) -> None:
    with pytest.raises(AddressNotAllowed, match="IHVP_WEBHOOK_ALLOWED_HOSTS"):
        AddressRules().check_literal(address)
    with pytest.raises(AddressNotAllowed):
        AddressRules().checked("innocent.example", [ipaddress.ip_address(address)])


@pytest.mark.parametrize("host", SPELLINGS)
def test_other_spellings_of_an_address_change_nothing(host: str) -> None:
    with pytest.raises(AddressNotAllowed):
        AddressRules().check_literal(host)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    AddressRules().check_literal(address)


def test_a_name_with_one_private_address_is_refused_whole() -> None:
    addresses = [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("10.0.0.1")]
    with pytest.raises(AddressNotAllowed, match=r"Given: two-faced\.example") as refused:
        AddressRules().checked("two-faced.example", addresses)
    # Whoever asks does not learn what the name stands for in here.
    assert "10.0.0.1" not in str(refused.value)


def test_what_the_operator_lists_is_reached() -> None:
    rules = AddressRules(["10.2.0.0/16", "Hooks.Internal.", "::1"])
    for host in ("10.2.3.4", "[::1]"):
        rules.check_literal(host)
        assert rules.lists(host)
    assert rules.lists("hooks.internal")
    rules.checked("hooks.internal", [ipaddress.ip_address("192.168.0.9")])
    rules.checked("elsewhere.example", [ipaddress.ip_address("10.2.0.1")])
    rules.checked("elsewhere.example", [ipaddress.ip_address("::ffff:10.2.0.1")])
    for other in ("10.3.0.1", "127.0.0.1"):
        with pytest.raises(AddressNotAllowed):
            rules.check_literal(other)
    with pytest.raises(AddressNotAllowed):
        rules.checked("sub.hooks.internal", [ipaddress.ip_address("192.168.0.9")])


def send(rules: AddressRules, url: str) -> httpx.Response:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=CheckedTransport(rules), trust_env=False) as client:
            return await client.post(url, content=b"{}")

    return asyncio.run(post())


class TestConnections:
    """Real connections; the lookup alone is replaced, for no name in public DNS can be made to point at us."""

    @pytest.fixture
    def names(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
        known: dict[str, list[str]] = {}
        real = socket.getaddrinfo

        def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name not in known:
                return real(host, port, *args, **kwargs)
            # One answer a lookup, the next time another: as a name server that rebinds does it.
            address = known[name].pop(0) if len(known[name]) > 1 else known[name][0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        return known

    def test_a_name_that_stands_for_a_private_address_is_not_connected_to(self, names: dict[str, list[str]]) -> None:
        names["inside.example"] = ["127.0.0.1"]
        with receiving() as receiver:
            with pytest.raises(AddressNotAllowed):
                send(AddressRules(), receiver.url.replace("127.0.0.1", "inside.example"))
            assert receiver.received == []

    def test_a_real_name_of_this_machine_is_not_connected_to(self) -> None:
        with receiving() as receiver:
            with pytest.raises(AddressNotAllowed):
                send(AddressRules(), receiver.url.replace("127.0.0.1", "localhost"))
            assert receiver.received == []

    def test_the_connection_goes_to_the_address_that_was_checked(self, names: dict[str, list[str]]) -> None:
        # Looked up twice, it would be refused or go astray the second time: it is looked up once.
        names["rebinding.example"] = ["127.0.0.1", "127.0.0.99"]
        with receiving() as receiver:
            url = receiver.url.replace("127.0.0.1", "rebinding.example")
            assert send(AddressRules(["127.0.0.1/32"]), url).status_code == 204
            (received,) = receiver.received
            assert received.headers["host"] == url.split("/")[2]
            # The next request looks again, and is refused.
            with pytest.raises(AddressNotAllowed):
                send(AddressRules(["127.0.0.1/32"]), url)

    def test_a_proxy_in_the_environment_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        with receiving() as receiver:
            assert send(AddressRules(["127.0.0.1"]), receiver.url).status_code == 204
