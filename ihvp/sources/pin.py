"""What is remembered of a file outside the blob store, so that another one is never taken for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ihvp.errors import SourceChanged
from ihvp.sources.uri import check_source_uri

__all__ = ["SourcePin", "SourcePins", "check_pinned_uris"]


class SourcePin(BaseModel):
    """A file as it was when a job was submitted or a model registered.

    ``etag`` is what the place that holds the file tells its versions apart by: an HTTP or object store's ETag, a local
    file's time of change. Where there is none, ``sha256`` is set. Two pins that differ are two files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=0, le=2**62, strict=True, description="Bytes.")
    etag: str | None = Field(None, max_length=1024, description="Changes with the file, where it has one.")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Of all bytes, where it is known.")
    resolved: str | None = Field(
        None, max_length=2048, description="The URI that a name which can move stood for: that of an alias's version."
    )

    def matches(self, found: SourcePin) -> bool:
        """Whether a file found now may be the one that was pinned: nothing that both know differs."""
        pairs = [(self.etag, found.etag), (self.sha256, found.sha256), (self.resolved, found.resolved)]
        return self.size == found.size and all(a == b for a, b in pairs if a is not None and b is not None)

    def require(self, found: SourcePin, uri: str, *, what: str = "file", hint: str | None = None) -> None:
        """Refuses a file found now that is not the one that was pinned.

        Args:
            found: Its pin.
            uri: Where it is, for the message.
            what: What such a file is called there.
            hint: What to do; left out, to take it as it is now.

        Raises:
            SourceChanged: It differs.
        """
        if not self.matches(found):
            raise SourceChanged(
                f"The {what} has changed since it was pinned.",
                given=f"{uri}: {found.size} bytes, {found.etag}",
                allowed=f"{self.size} bytes, {self.etag}",
                hint=hint or f"Submit the job again, or register the model again, to take the {what} as it is now.",
            )


SourcePins = Annotated[
    dict[Annotated[str, Field(max_length=2048)], SourcePin],
    Field(
        max_length=2000,
        description="Files outside the blob store, by URI, as they were pinned. Filled in at submit; what a caller "
        "gives has to be what is found then.",
    ),
]


def check_pinned_uris(pins: dict[str, SourcePin]) -> dict[str, SourcePin]:
    """Refuses names that are no URIs of files.

    Raises:
        InvalidReference: One is none.
    """
    for uri in pins:
        check_source_uri(uri)
    return pins
