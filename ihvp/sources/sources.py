"""All places that an operator has opened, behind one ``Source``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final

from ihvp.errors import SourceTooLarge
from ihvp.sources.source import Patience, Source
from ihvp.sources.uri import check_source_uri, scheme_of

if TYPE_CHECKING:
    from ihvp.settings import Settings
    from ihvp.sources.pin import SourcePin

__all__ = ["Sources"]

HEADER_BLOCK: Final = 256 * 1024
FETCH_BLOCK: Final = 8 * 1024 * 1024


class Sources:
    """``Source`` for URIs of any scheme. For one piece of work: its time begins now. Adapters are made as needed.

    Args:
        settings: What is opened, and bounds.
        seconds: How long the whole work may take.
        block: Bytes that a store is asked for at a time.
    """

    def __init__(self, settings: Settings, seconds: float, *, block: int = HEADER_BLOCK) -> None:
        self._settings = settings
        self._block = block
        self._made: dict[str, Source] = {}
        self.patience = Patience(settings.source_timeout_s, seconds)

    @classmethod
    def to_look(cls, settings: Settings) -> Sources:
        """As the API uses them: to pin, and to read headers."""
        return cls(settings, settings.source_resolve_s)

    @classmethod
    def to_fetch(cls, settings: Settings) -> Sources:
        """As a worker uses them: to read a whole file."""
        return cls(settings, settings.source_fetch_s, block=FETCH_BLOCK)

    def is_folder(self, uri: str) -> bool:
        """See ``Source.is_folder``."""
        return self._of(uri).is_folder(uri)

    def files(self, uri: str) -> list[str]:
        """See ``Source.files``."""
        return self._of(uri).files(uri)

    def pin(self, uri: str) -> SourcePin:
        """See ``Source.pin``.

        Raises:
            SourceTooLarge: It is larger than a reference may name.
        """
        pin = self._of(uri).pin(uri)
        if pin.size > self._settings.max_source_bytes:
            raise SourceTooLarge(
                "The file is larger than the service takes.",
                given=f"{uri.partition('?')[0]}: {pin.size} bytes",
                allowed=f"up to {self._settings.max_source_bytes} bytes",
                hint="An operator can raise IHVP_MAX_SOURCE_BYTES.",
            )
        return pin

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """See ``Source.open``."""
        return self._of(uri).open(uri, pin)

    def _of(self, uri: str) -> Source:
        scheme = scheme_of(check_source_uri(uri))
        kind = "https" if scheme == "http" else scheme
        if kind not in self._made:
            self._made[kind] = _MAKERS[kind](self, kind)
        return self._made[kind]

    # Each imports its adapter when it is first needed: libraries of clouds are large.

    def _local(self, _: str) -> Source:
        from ihvp.sources.local import LocalFiles

        return LocalFiles(self._settings.source_roots)

    def _https(self, _: str) -> Source:
        from ihvp.sources.https import HttpsFiles

        settings = self._settings
        return HttpsFiles(settings.source_hosts, settings.source_private_hosts, self.patience)

    def _buckets(self, scheme: str) -> Source:
        from ihvp.sources.buckets import BucketFiles

        return BucketFiles(scheme, self._settings.source_buckets, self.patience, self._block)

    def _hugging_face(self, _: str) -> Source:
        from ihvp.sources.hugging_face import HuggingFaceFiles

        return HuggingFaceFiles(self._settings.hf_endpoint, self.patience, self._settings.hugging_face_token)

    def _mlflow(self, _: str) -> Source:
        from ihvp.sources.mlflow import MlflowFiles

        settings = self._settings
        return MlflowFiles(settings.mlflow_tracking_uri, settings.mlflow_authorization, self.patience, self)


_MAKERS: Final[dict[str, Callable[[Sources, str], Source]]] = {
    "file": Sources._local,
    "https": Sources._https,
    "s3": Sources._buckets,
    "gs": Sources._buckets,
    "hf": Sources._hugging_face,
    "mlflow": Sources._mlflow,
}
