"""The client's calls for registered models: looking them up, and naming their versions."""

from __future__ import annotations

from collections.abc import Iterator

from ihvp.client.connection import Connection
from ihvp.references import LATEST, ModelRef, parse_alias
from ihvp.wire import ModelPage, ModelView

__all__ = ["ModelCalls"]


class ModelCalls:
    """Registered models; a part of ``Client``."""

    _link: Connection

    def models(self) -> Iterator[ModelView]:
        """The latest version of each model, in order of names."""
        for page in self._link.pages("/v1/models", ModelPage):
            yield from page.models

    def model(self, reference: str) -> ModelView:
        """A registered model: ``name`` or ``name@latest`` (its latest version), ``name@<version>``, ``name@<alias>``.

        Raises:
            ModelNotFound: There is none.
        """
        parsed = ModelRef.parse(reference)
        answer = self._link.send("GET", f"/v1/models/{parsed.name}/{parsed.alias or parsed.version or LATEST}")
        return ModelView.model_validate_json(answer.content)

    def aliases(self, name: str) -> dict[str, int]:
        """The version that each alias of a model stands for.

        Raises:
            ModelNotFound: No model has this name.
        """
        answer = self._link.send("GET", f"/v1/models/{ModelRef.parse(name).name}")
        return ModelPage.model_validate_json(answer.content).aliases

    def set_alias(self, name: str, alias: str, version: int) -> ModelView:
        """Has ``name@alias`` stand for a version from now on; jobs that were submitted before keep theirs.

        Raises:
            ModelNotFound: The model has no such version.
            InvalidReference: The alias cannot be one.
        """
        path = f"/v1/models/{ModelRef.parse(name).name}/aliases/{parse_alias(alias)}"
        return ModelView.model_validate_json(self._link.send("PUT", path, json={"version": version}).content)

    def drop_alias(self, name: str, alias: str) -> None:
        """Takes an alias away; the version stays.

        Raises:
            ModelNotFound: The model has no such alias.
        """
        self._link.delete(f"/v1/models/{ModelRef.parse(name).name}/aliases/{parse_alias(alias)}")
