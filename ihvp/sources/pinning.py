"""Pins for everything that a spec refers to outside the blob store: folders become the files that are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from ihvp.errors import SourceChanged, SourceError, SourceNotFound
from ihvp.sources.uri import join_uri

if TYPE_CHECKING:
    from ihvp.sources.pin import SourcePin
    from ihvp.sources.sources import Sources

__all__ = ["READ_WHOLE", "is_needed", "pin_references", "pinned_folder"]

MOST_FILES: Final = 500
AT_ONCE: Final = 8
READ_WHOLE: Final = 16 * 1024 * 1024
"""Bytes up to which a file that has no validator is pinned by the digest of its bytes."""
NEVER_READ: Final = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "trainer_state", "all_results")
"""How names in a folder begin that say nothing of the model: tensors are given as token ids."""


def pin_references(uris: Iterable[str], given: Mapping[str, SourcePin], sources: Sources) -> dict[str, SourcePin]:
    """A pin for each file, those of folders included, by URI.

    Args:
        uris: Of files and folders, without ``#name``.
        given: Pins that the caller has sent: what is found has to match them, and their digests are kept.
        sources: Where to look.

    Raises:
        SourceChanged: A file is not what the caller has pinned.
        SourceNotFound: A folder holds no file that is needed, or a caller's pin is of a file that is not.
        SourceError: A file cannot be pinned; and whatever ``Source`` raises.
    """
    uris = list(uris)
    if not uris and not given:
        return {}
    files = [file for uri in dict.fromkeys(uris) for file in _expanded(uri, sources)]
    if len(files) == 1:
        pins = {files[0]: _pin(files[0], given.get(files[0]), sources)}
    else:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pins = dict(zip(files, pool.map(lambda uri: _pin(uri, given.get(uri), sources), files), strict=True))
    strangers = given.keys() - pins.keys()
    if strangers:
        raise SourceNotFound(
            "A pin is of a file that nothing refers to.",
            given=min(strangers)[:200],
            allowed=", ".join(sorted(pins)[:5]) or "no pins",
        )
    return pins


def pinned_folder(uri: str, pins: Mapping[str, SourcePin]) -> dict[str, str]:
    """The pinned files of a folder: from the name relative to it to the file's URI; empty where it is no folder."""
    start = uri.rstrip("/") + "/"
    return {unquote(file.removeprefix(start)): file for file in pins if file.startswith(start)}


def is_needed(name: str) -> bool:
    """Whether a folder's file takes part in a model or a data set: weights, configs, rows; never code or pickles."""
    if name.endswith((".parquet", ".arrow")):
        return True
    return "/" not in name and name.endswith((".json", ".safetensors")) and not name.startswith(NEVER_READ)


def _expanded(uri: str, sources: Sources) -> list[str]:
    if not sources.is_folder(uri):
        return [uri]
    names = [name for name in sources.files(uri) if is_needed(name)]
    if not names:
        raise SourceNotFound(
            "The folder holds no file that is read here.",
            given=uri,
            allowed=".json and .safetensors of a model; .parquet and .arrow of data",
        )
    if len(names) > MOST_FILES:
        raise SourceError("The folder holds too many files.", given=f"{uri}: {len(names)}", allowed=str(MOST_FILES))
    return [join_uri(uri, name) for name in names]


def _pin(uri: str, given: SourcePin | None, sources: Sources) -> SourcePin:
    pin = sources.pin(uri)
    if pin.etag is None and pin.sha256 is None and (given is None or given.sha256 is None):
        pin = _by_digest(uri, pin, sources)
    if given is None:
        return pin
    if not given.matches(pin):
        raise SourceChanged(
            "A file is not the one that the request has pinned.",
            given=f"{uri.partition('?')[0]}: {pin.size} bytes, {pin.etag or pin.sha256}",
            allowed=f"{given.size} bytes, {given.etag or given.sha256}",
            hint="Leave its pin out to take the file as it is now.",
        )
    return pin.model_copy(update={"sha256": pin.sha256 or given.sha256})


def _by_digest(uri: str, pin: SourcePin, sources: Sources) -> SourcePin:
    if pin.size > READ_WHOLE:
        raise SourceError(
            "The place that holds the file does not say when it changes, and the file is too large to be read for it.",
            given=f"{uri.partition('?')[0]}: {pin.size} bytes without ETag or Last-Modified",
            allowed=f"up to {READ_WHOLE} bytes, or a pin of yours",
            hint='Send its size and sha256 in "sources", or keep it where files have ETags.',
        )
    digest = hashlib.sha256()
    with sources.open(uri, pin) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return pin.model_copy(update={"sha256": digest.hexdigest()})
