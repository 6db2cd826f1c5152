"""How models, blobs and tensors are referred to: syntax only, nothing is looked up here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from ihvp.errors import InvalidReference
from ihvp.sources.uri import SOURCE_PATTERN, check_source_uri, is_source_uri

__all__ = [
    "EXPORT",
    "BlobDigest",
    "ModelName",
    "ModelRef",
    "TensorName",
    "TensorRef",
    "WeightsRef",
    "blobs_among",
    "exported_blob",
    "parse_alias",
    "parse_digest",
]

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
EXPORT = "export://"
MODEL_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"
ALIAS_PATTERN = r"^[a-z][a-z0-9_-]{0,63}$"
LATEST = "latest"

BlobDigest = Annotated[
    str, Field(pattern=DIGEST_PATTERN, examples=["sha256:" + "0" * 64], description="A blob's digest.")
]
ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN, examples=["digits-mlp"])]


def parse_alias(text: str) -> str:
    """An alias that somebody gives to a version, checked.

    Raises:
        InvalidReference: It is written otherwise, or is ``latest``, which means the latest version of all.
    """
    if text == LATEST or not re.fullmatch(ALIAS_PATTERN, text):
        raise InvalidReference(
            "This cannot be the alias of a version.",
            given=text[:100],
            allowed="a lower-case letter, then letters, digits, _ and -, 64 at most; not latest",
            hint="latest always means the latest version.",
        )
    return text


def parse_digest(text: str) -> str:
    """The digest ``sha256:<64 hex>``, checked.

    Raises:
        InvalidReference: It is written otherwise.
    """
    if not re.fullmatch(DIGEST_PATTERN, text):
        raise InvalidReference(
            "This is not a blob's digest.",
            given=text[:100],
            allowed="sha256: and 64 lower-case hexadecimal digits",
            hint="sha256sum FILE prints them.",
        )
    return text


@dataclass(frozen=True)
class ModelRef:
    """A registered model: ``name``, ``name@latest``, ``name@3`` or ``name@champion``.

    Attributes:
        name: The model's name.
        version: Its version, counted from 1; None is the latest, or that of the alias.
        alias: What somebody has named a version.
    """

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Reads a reference.

        Raises:
            InvalidReference: It is written otherwise.
        """
        name, _, version = text.partition("@")
        alias = version if version != LATEST and re.fullmatch(ALIAS_PATTERN, version) else None
        good_version = version in {"", LATEST} or alias or re.fullmatch(r"[1-9][0-9]{0,8}", version)
        if not re.fullmatch(MODEL_NAME_PATTERN, name) or not good_version or text.endswith("@"):
            raise InvalidReference(
                "This is not a model reference.",
                given=text[:200],
                allowed="name, name@latest, name@<version>, name@<alias>; names of lower-case letters, digits, . _ -",
                hint="GET /v1/models lists the registered models.",
            )
        return cls(name, int(version) if version.isdecimal() else None, alias)

    def __str__(self) -> str:
        return f"{self.name}@{self.alias or self.version or LATEST}"


@dataclass(frozen=True)
class TensorName:
    """A tensor in a file: ``sha256:<hex>`` or ``<scheme>://…``, and ``#<name>`` behind it or not.

    Attributes:
        source: The file: a blob's digest ``sha256:<hex>``, or a URI (see ``ihvp.sources.uri``).
        name: The tensor's name in a file of several; None takes the one that the place asks for, or the only one.
    """

    source: str
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> TensorName:
        """Reads a reference.

        Raises:
            InvalidReference: It is written otherwise.
        """
        source, mark, name = text.partition("#")
        if mark and not 1 <= len(name) <= 512:
            raise InvalidReference(
                "A tensor's name follows the #.", given=text[:200], allowed="sha256:<64 hex>#<name>"
            )
        return cls(check_source_uri(source) if is_source_uri(source) else parse_digest(source), name or None)

    @property
    def digest(self) -> str | None:
        """The blob's digest; None for a URI."""
        return None if is_source_uri(self.source) else self.source

    def __str__(self) -> str:
        return self.source if self.name is None else f"{self.source}#{self.name}"


def exported_blob(reference: str) -> str | None:
    """The blob of an exported program, of a reference ``export://sha256:<hex>``; None of any other."""
    return reference.removeprefix(EXPORT) if reference.startswith(EXPORT) else None


def blobs_among(references: Iterable[str]) -> list[str]:
    """The blobs that references name, in their order."""
    named = (exported_blob(reference) or reference for reference in references)
    return [source for ref in named if not is_source_uri(source := ref.partition("#")[0])]


def _checked_tensor_reference(text: str) -> str:
    return str(TensorName.parse(text))


def _checked_weights(text: str) -> str:
    program = exported_blob(text)
    return _checked_tensor_reference(text) if program is None else EXPORT + parse_digest(program)


TensorRef = Annotated[
    str,
    AfterValidator(_checked_tensor_reference),
    Field(
        # For the documentation alone: as a constraint, each model that has one would compile it anew, to megabytes.
        json_schema_extra={"pattern": rf"^(?:sha256:[0-9a-f]{{64}}|{SOURCE_PATTERN})(?:#.{{1,512}})?$"},
        examples=["sha256:" + "0" * 64],
        description="A tensor in a blob or another file: sha256:<64 hex> or file://, https://, s3://, gs://, hf:// or "
        "mlflow://, and #<name> behind it where the file holds several.",
    ),
]

WeightsRef = Annotated[
    str,
    AfterValidator(_checked_weights),
    Field(
        # For the documentation alone: as a constraint, each model that has one would compile it anew, to megabytes.
        json_schema_extra={"pattern": rf"^(?:(?:{EXPORT})?sha256:[0-9a-f]{{64}}|{SOURCE_PATTERN})(?:#.{{1,512}})?$"},
        examples=["sha256:" + "0" * 64],
        description="A safetensors file with one tensor a parameter: a blob or a URI; the URI of a folder in "
        "Hugging Face layout; or export://sha256:<64 hex>, a program of torch.export.",
    ),
]

FolderRef = Annotated[
    str,
    AfterValidator(check_source_uri),
    Field(
        pattern=rf"^{SOURCE_PATTERN}$",
        examples=["file:///models/adapter"],
        description="The URI of a folder: file://, https://, s3://, gs://, hf:// or mlflow://.",
    ),
]
