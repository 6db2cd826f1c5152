"""``mlflow://``: artifacts of registered model versions, by the tracking server's REST API; nothing of them is loaded.

Neither the client's loaders, which unpickle, nor the client itself: it takes 150 MB, and waits for minutes where a
caller waits for seconds (docs/adr/0022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import quote, unquote, urlencode, urlsplit

from ihvp.addresses import AddressRules
from ihvp.errors import SourceError, SourceNotAllowed, SourceNotFound
from ihvp.sources.pin import SourcePin
from ihvp.sources.pinning import READ_WHOLE
from ihvp.sources.uri import MlflowUri, join_uri
from ihvp.sources.web import WebReader

if TYPE_CHECKING:
    from ihvp.sources.source import Patience, Source

__all__ = ["MlflowFiles"]

API: Final = "/api/2.0/mlflow"
PROXY: Final = "/api/2.0/mlflow-artifacts/artifacts"
MOST_STEPS: Final = 4
MOST_FOLDERS: Final = 200


@dataclass(frozen=True)
class _Version:
    """A version of a model.

    Attributes:
        uri: ``mlflow://models/<name>/<version>``.
        made: What tells it from one of the same number that was deleted before.
        root: Where its artifacts are: a URL of the tracking server, or a URI of another place.
    """

    uri: str
    made: str
    root: str


class MlflowFiles:
    """Artifacts of registered models; see ``Source``.

    Those that the tracking server does not hand out itself are read where they are, if the operator has opened that
    place too.

    Args:
        tracking: The server's URL; None opens nothing.
        authorization: Header of requests to it.
        patience: How long to wait.
        elsewhere: All other places.
    """

    def __init__(self, tracking: str | None, authorization: str | None, patience: Patience, elsewhere: Source) -> None:
        self._tracking = (tracking or "").rstrip("/")
        headers = {"Authorization": authorization} if authorization else {}
        host = urlsplit(self._tracking).hostname or ""
        self._reader = WebReader(AddressRules([host]), self._admit, patience, self._tracking, headers)
        self._elsewhere = elsewhere
        self._versions: dict[str, _Version] = {}

    def is_folder(self, uri: str) -> bool:
        """See ``Source.is_folder``: a version, or a path in it that ends with ``/``."""
        path = MlflowUri.parse(uri).path
        return not path or path.endswith("/")

    def files(self, uri: str) -> list[str]:
        """See ``Source.files``."""
        place = MlflowUri.parse(uri)
        folder = _below(self._version(place).root, place.path)
        return sorted(self._walk(folder)) if self._is_proxied(folder) else self._elsewhere.files(folder)

    def pin(self, uri: str) -> SourcePin:
        """See ``Source.pin``; ``resolved`` is the version that an alias stands for."""
        place = MlflowUri.parse(uri)
        version = self._version(place)
        return _as_of(version, self._there(_below(version.root, place.path))).model_copy(
            update={"resolved": join_uri(version.uri, place.path) if place.alias else None}
        )

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """See ``Source.open``; an alias that has moved since still means the version that was pinned."""
        place = MlflowUri.parse(pin.resolved or uri)
        version = self._version(place)
        file = _below(version.root, place.path)
        there = self._there(file)
        pin.require(
            _as_of(version, there),
            uri,
            what="artifact",
            hint="Register a new version in MLflow instead of writing to an old one; then submit again.",
        )
        if self._is_proxied(file):
            return self._reader.open(file, there, etag=there.etag)
        return self._elsewhere.open(file, there)

    def _there(self, file: str) -> SourcePin:
        return self._reader.pin(file) if self._is_proxied(file) else self._elsewhere.pin(file)

    def _version(self, place: MlflowUri) -> _Version:
        """The version, looked up once."""
        key = f"{place.name}/{place.version}@{place.alias}"
        if key not in self._versions:
            try:
                self._versions[key] = self._find(place)
            except SourceError:
                raise
            except (KeyError, TypeError, ValueError, AttributeError):
                raise SourceError("MLflow's answer cannot be read.", given=f"models/{key}"[:200]) from None
        return self._versions[key]

    def _find(self, place: MlflowUri) -> _Version:
        if place.alias is not None:
            asked: dict[str, Any] = {"name": place.name, "alias": place.alias}
            facts = self._ask("registered-models/alias", asked)["model_version"]
        else:
            asked = {"name": place.name, "version": place.version}
            facts = self._ask("model-versions/get", asked)["model_version"]
        asked = {"name": place.name, "version": facts["version"]}
        root = self._ask("model-versions/get-download-uri", asked)["artifact_uri"]
        uri = f"mlflow://models/{quote(place.name, safe='')}/{facts['version']}"
        return _Version(uri, str(facts["creation_timestamp"]), self._located(root))

    def _located(self, root: str) -> str:
        """Where an artifact URI of MLflow's leads."""
        for _ in range(MOST_STEPS):
            scheme, _, rest = root.partition(":")
            if scheme == "mlflow-artifacts":
                return self._proxied(rest)
            if root.startswith(f"{self._tracking}{PROXY}/"):
                return root.rstrip("/")
            if scheme == "models":
                root = self._model_root(rest.lstrip("/"))
            elif scheme == "runs":
                run, _, path = rest.lstrip("/").partition("/")
                root = join_uri(self._ask("runs/get", {"run_id": run})["run"]["info"]["artifact_uri"], path)
            elif root.startswith("/"):
                return f"file://{quote(root)}"
            elif scheme == "file":
                return f"file:///{quote(unquote(rest.lstrip('/')))}"
            elif scheme in {"s3", "gs"}:
                return f"{scheme}:{quote(rest)}"
            elif scheme == "https":
                return root
            else:
                break
        raise SourceError(
            "The model's artifacts are in a place that is not read here.",
            given=root[:200],
            allowed="the tracking server itself, file://, https://, s3:// and gs://",
        )

    def _model_root(self, name: str) -> str:
        first, _, version = name.partition("/")
        if not version:
            answer = self._ask(f"logged-models/{quote(first, safe='')}", {})
            return str(answer["model"]["info"]["artifact_uri"])
        asked = {"name": first, "version": version}
        return str(self._ask("model-versions/get-download-uri", asked)["artifact_uri"])

    def _proxied(self, rest: str) -> str:
        host = urlsplit(f"mlflow-artifacts:{rest}").netloc
        if host and host != urlsplit(self._tracking).netloc:
            raise SourceNotAllowed(
                "The model's artifacts are on another MLflow server.",
                given=f"mlflow-artifacts://{host}",
                allowed="the one that IHVP_MLFLOW_TRACKING_URI names",
            )
        path = rest.removeprefix(f"//{host}") if host else rest
        return f"{self._tracking}{PROXY}/{quote(path.strip('/'))}"

    def _is_proxied(self, place: str) -> bool:
        return place.startswith(f"{self._tracking}{PROXY}/")

    def _walk(self, folder: str) -> list[str]:
        """Names of all files below a folder that the server hands out, relative to it."""
        root = folder.removeprefix(f"{self._tracking}{PROXY}/").rstrip("/")
        found: list[str] = []
        waiting = [""]
        for _ in range(MOST_FOLDERS):
            if not waiting:
                return found
            below = waiting.pop()
            asked = "/".join(part for part in (root, quote(below)) if part)
            answer, _ = self._reader.json(f"{self._tracking}{PROXY}?path={asked}")
            try:
                listed = [(e["path"].rpartition("/")[2], e["is_dir"]) for e in answer.get("files", [])]
            except (KeyError, TypeError, AttributeError):
                raise SourceError("MLflow's listing cannot be read.", given=folder) from None
            for name, is_folder in listed:
                (waiting if is_folder else found).append(f"{below}/{name}".lstrip("/"))
        raise SourceError("The model has too many folders of artifacts.", given=folder, allowed=str(MOST_FOLDERS))

    def _ask(self, what: str, asked: dict[str, Any]) -> Any:
        url = f"{self._tracking}{API}/{what}" + (f"?{urlencode(asked)}" if asked else "")
        try:
            answer, _ = self._reader.json(url)
        except SourceError as error:
            # An unknown alias is a bad request to MLflow.
            if type(error) not in {SourceError, SourceNotFound}:
                raise
            raise SourceNotFound(
                "MLflow has no such version of a registered model.", given=f"{what}: {asked}", hint=error.given
            ) from None
        return answer

    def _admit(self, url: str) -> None:
        if not self._tracking:
            raise SourceNotAllowed(
                "mlflow:// references lead nowhere here.",
                allowed="no MLflow model",
                hint="An operator names the tracking server in IHVP_MLFLOW_TRACKING_URI.",
            )
        if not url.startswith(f"{self._tracking}/"):
            raise SourceNotAllowed("MLflow's server redirects to another one.", given=url.partition("?")[0][:200])


def _as_of(version: _Version, found: SourcePin) -> SourcePin:
    """A file as part of a version; a small one without a validator is better pinned by its digest."""
    if found.etag is None and found.size <= READ_WHOLE:
        return found
    return found.model_copy(update={"etag": f"{version.made} {found.etag or ''}".strip()})


def _below(root: str, path: str) -> str:
    return join_uri(root, path).rstrip("/") if path else root
