"""``https://`` and ``http://``: hosts that the operator has listed."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from ihvp.addresses import AddressRules
from ihvp.errors import SourceError, SourceNotAllowed
from ihvp.sources.web import WebReader

if TYPE_CHECKING:
    from ihvp.sources.pin import SourcePin
    from ihvp.sources.source import Patience

__all__ = ["HttpsFiles"]


class HttpsFiles:
    """Files on the web; see ``Source``. Redirects lead to listed hosts only.

    Args:
        hosts: Patterns of host names, whose addresses have to be public.
        private: Hosts, addresses and networks that may be private, and may be reached without encryption.
        patience: How long to wait.
    """

    def __init__(self, hosts: Iterable[str], private: Iterable[str], patience: Patience) -> None:
        self._hosts = [host.rstrip(".").lower() for host in hosts]
        self._rules = AddressRules(private)
        self._reader = WebReader(self._rules, self._admit, patience)

    def is_folder(self, uri: str) -> bool:
        """Never: the web has no listings."""
        self._admit(uri)
        return False

    def files(self, uri: str) -> list[str]:
        """Refused.

        Raises:
            SourceError: Always.
        """
        raise SourceError("The web has no folders that can be listed.", given=uri, allowed="the URL of one file")

    def pin(self, uri: str) -> SourcePin:
        """See ``Source.pin``."""
        return self._reader.pin(uri)

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """See ``Source.open``."""
        return self._reader.open(uri, pin, etag=pin.etag)

    def _admit(self, url: str) -> None:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        if self._rules.lists(host) and parts.scheme in {"http", "https"}:
            return
        if parts.scheme == "https" and any(fnmatchcase(host, pattern) for pattern in self._hosts):
            return
        raise SourceNotAllowed(
            "References may not lead to this host.",
            given=f"{parts.scheme}://{host}",
            allowed="https:// to hosts that the operator has listed",
            hint="An operator lists hosts in IHVP_SOURCE_HOSTS, private ones and those without https in "
            "IHVP_SOURCE_PRIVATE_HOSTS.",
        )
