"""``hf://``: repositories of a Hugging Face hub at one commit; their files are bytes, and no code of theirs is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit

from ihvp.addresses import AddressRules
from ihvp.errors import SourceError, SourceNotAllowed, SourceNotFound
from ihvp.sources.pin import SourcePin
from ihvp.sources.uri import HuggingFaceUri
from ihvp.sources.web import WebReader

if TYPE_CHECKING:
    from ihvp.sources.source import Patience

__all__ = ["HuggingFaceFiles"]


class HuggingFaceFiles:
    """Files of a hub; see ``Source``. A listing tells sizes and digests, so that a folder is pinned by one request.

    The token is the one that ``huggingface_hub`` finds (``HF_TOKEN``, or what ``hf auth login`` has kept). It goes to
    the hub alone, while the files themselves may come from any public host that it redirects to.

    Args:
        endpoint: The hub's URL; None opens nothing.
        patience: How long to wait.
        token: Taken where there is no ``huggingface_hub`` to ask.
    """

    def __init__(self, endpoint: str | None, patience: Patience, token: str | None) -> None:
        self._endpoint = (endpoint or "").rstrip("/")
        self._host = urlsplit(self._endpoint).hostname or ""
        token = _token(token) if endpoint else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._reader = WebReader(AddressRules([self._host]), self._admit, patience, self._endpoint, headers)
        self._pins: dict[str, SourcePin] = {}

    def is_folder(self, uri: str) -> bool:
        """See ``Source.is_folder``: a repository, or a path in it that ends with ``/``."""
        path = HuggingFaceUri.parse(uri).path
        return not path or path.endswith("/")

    def files(self, uri: str) -> list[str]:
        """See ``Source.files``."""
        place = HuggingFaceUri.parse(uri)
        start = f"{place.path.rstrip('/')}/" if place.path else ""
        self._list(place, start.rstrip("/"), recursive=True)
        prefix = self._name(place, start)
        return sorted(name.removeprefix(prefix) for name in self._pins if name.startswith(prefix))

    def pin(self, uri: str) -> SourcePin:
        """See ``Source.pin``."""
        place = HuggingFaceUri.parse(uri)
        name = self._name(place, place.path)
        if name not in self._pins:
            self._list(place, place.path.rpartition("/")[0], recursive=False)
        if name not in self._pins:
            raise SourceNotFound("The repository has no such file at this commit.", given=uri)
        return self._pins[name]

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """See ``Source.open``; a commit's files do not change, and large ones are known by their digest."""
        place = HuggingFaceUri.parse(uri)
        kind = "datasets/" if place.kind == "datasets" else ""
        url = f"{self._endpoint}/{kind}{place.repository}/resolve/{place.commit}/{quote(place.path)}"
        return self._reader.open(url, pin, etag=None)

    def _list(self, place: HuggingFaceUri, folder: str, *, recursive: bool) -> None:
        tree = f"{self._endpoint}/api/{place.kind}/{place.repository}/tree/{place.commit}"
        below = f"/{quote(folder)}" if folder else ""
        url: str | None = f"{tree}{below}{'?recursive=true' if recursive else ''}"
        while url is not None:
            entries, url = self._reader.json(url)
            try:
                found = {self._name(place, e["path"]): _pin(e) for e in entries if e.get("type") == "file"}
            except (KeyError, TypeError, ValueError, AttributeError):
                raise SourceError("The hub's listing cannot be read.", given=place.repository) from None
            self._pins |= found

    def _name(self, place: HuggingFaceUri, path: str) -> str:
        kind = "datasets/" if place.kind == "datasets" else ""
        return f"{kind}{place.repository}@{place.commit}/{path}"

    def _admit(self, url: str) -> None:
        parts = urlsplit(url)
        if not self._endpoint:
            raise SourceNotAllowed(
                "hf:// references lead nowhere here.",
                allowed="no Hugging Face repository",
                hint="An operator names the hub in IHVP_HF_ENDPOINT, such as https://huggingface.co.",
            )
        same = parts.hostname == self._host and parts.scheme in {"https", urlsplit(self._endpoint).scheme}
        if not same and parts.scheme != "https":
            raise SourceNotAllowed("The hub redirects to a place without https.", given=f"{parts.scheme}://…")


def _pin(entry: dict[str, Any]) -> SourcePin:
    large = entry.get("lfs") or {}
    return SourcePin(size=large.get("size", entry["size"]), etag=entry["oid"], sha256=large.get("oid"))


def _token(kept: str | None) -> str | None:
    """What the hub's own client finds: it also renews one that a login in a browser has left."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return kept
    return get_token()
