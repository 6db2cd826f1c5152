"""Which addresses the service connects to on a caller's word: public ones, and those that the operator has listed.

A URL that a caller chose must not reach what only this machine or this network can reach: loopback, private networks,
the metadata service of a cloud. A name says nothing about that, so the addresses it stands for are looked at each
time, and the connection is made to one of the very addresses that were: a name that points elsewhere a moment later
(DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Final

import httpx

from ihvp.errors import AddressNotAllowed

__all__ = ["AddressRules", "CheckedSyncTransport", "CheckedTransport", "literal_address"]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# Global as far as the registries go, but a translator or tunnel leads from them to the IPv4 address within.
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


class AddressRules:
    """Tells which hosts may be reached.

    Args:
        allowed: What the operator allows beside public addresses: names (whatever they stand for), addresses, and
            networks such as ``10.2.0.0/16``.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._networks: list[IPNetwork] = []
        for entry in allowed:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                self._names.add(_canonical(entry))

    def lists(self, host: str) -> bool:
        """Whether the operator has listed this host itself."""
        address = literal_address(host)
        return _canonical(host) in self._names or (address is not None and self._in_listed_network(address))

    def check_literal(self, host: str) -> None:
        """Refuses a host that is an address, in any of its spellings, and none that may be reached; names pass.

        Raises:
            AddressNotAllowed: It may not be reached.
        """
        address = literal_address(host)
        if address is not None:
            self.checked(host, [address])

    def checked(self, host: str, addresses: Sequence[IPAddress]) -> Sequence[IPAddress]:
        """The addresses of a host, if it may be reached: if each of them may.

        Raises:
            AddressNotAllowed: One may not. Which one is not said: a caller must not learn about the network here.
        """
        if _canonical(host) not in self._names and not all(map(self._admits, addresses)):
            raise AddressNotAllowed(
                "The service does not connect to private or special addresses.",
                given=host[:255],
                allowed="hosts with public addresses only",
                hint="An operator can list hosts and networks in IHVP_WEBHOOK_ALLOWED_HOSTS.",
            )
        return addresses

    def _admits(self, address: IPAddress) -> bool:
        return is_public(address) or self._in_listed_network(address)

    def _in_listed_network(self, address: IPAddress) -> bool:
        seen = embedded(address) or address
        return any(each in network for network in self._networks for each in (address, seen))


def is_public(address: IPAddress) -> bool:
    """Whether an address, and the IPv4 address that may be within it, belong to the public internet."""
    within = embedded(address)
    if within is not None:
        return is_public(within)
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that traffic to an IPv6 address may end at; None where there is none."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None or address.sixtofour is not None:
        return address.ipv4_mapped or address.sixtofour
    if address in NAT64 or (address in COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def literal_address(host: str) -> IPAddress | None:
    """The address that a host names without any lookup: also ``127.1``, ``0x7f000001`` and ``2130706433``."""
    text = host.strip("[]")
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        # The spellings that a resolver takes for IPv4; never a name, for no top-level domain is a number.
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


class CheckedTransport(httpx.AsyncBaseTransport):
    """Sends requests only to addresses that the rules admit.

    The host is looked up anew for each request, and the connection goes to an address that was checked, while the
    request and the certificate's check keep the name. No connection is used twice, and no proxy.

    Args:
        rules: Which hosts may be reached.

    Raises, from ``handle_async_request``: ``AddressNotAllowed``, ``httpx.ConnectError`` where the name is unknown.
    """

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules
        # A kept connection belongs to an address, and would serve another name without a look at its certificate.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._inner = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        host = request.url.host
        addresses = self._rules.checked(host, await resolve(host, request.url.port or _port(request.url.scheme)))
        failure: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in addresses:
            try:
                return await self._inner.handle_async_request(_addressed(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("the name stands for no address", request=request)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._inner.aclose()


class CheckedSyncTransport(httpx.BaseTransport):
    """``CheckedTransport`` for threads.

    Args:
        rules: Which hosts may be reached.
        trusted: Whose certificates are believed.
    """

    def __init__(self, rules: AddressRules, trusted: ssl.SSLContext) -> None:
        self._rules = rules
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._inner = httpx.HTTPTransport(verify=trusted, limits=limits, trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        host = request.url.host
        try:
            found = socket.getaddrinfo(
                host.strip("[]"), request.url.port or _port(request.url.scheme), type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"the name cannot be looked up: {error}", request=request) from error
        failure: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in self._rules.checked(host, _addresses(found)):
            try:
                return self._inner.handle_request(_addressed(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("the name stands for no address", request=request)

    def close(self) -> None:
        """Closes all connections."""
        self._inner.close()


async def resolve(host: str, port: int) -> list[IPAddress]:
    """The addresses of a host, in the order in which to try them.

    Raises:
        httpx.ConnectError: The name is unknown, or cannot be looked up now.
    """
    try:
        # Without the brackets and scopes of IPv6: what comes out is addresses, and those alone are used.
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"the name cannot be looked up: {error}") from error
    return _addresses(found)


def _addresses(found: Iterable[tuple[Any, ...]]) -> list[IPAddress]:
    """What the resolver said, each address once."""
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def _addressed(request: httpx.Request, address: IPAddress) -> httpx.Request:
    name = request.url.host
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,  # Host among them: the name, as the caller wrote it
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": name},
    )


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _canonical(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
