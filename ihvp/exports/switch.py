"""The operator's switch."""

from __future__ import annotations

from ihvp.errors import ExportsNotAllowed

__all__ = ["require_exports"]


def require_exports(allowed: bool) -> None:
    """Goes on only where exported programs are allowed.

    Raises:
        ExportsNotAllowed: They are not.
    """
    if not allowed:
        raise ExportsNotAllowed(
            "This service does not run exported programs.",
            given="weights export://…",
            allowed="a registered architecture and a safetensors file",
            hint="An operator allows them with IHVP_ALLOW_EXPORTS=true, of API and workers: docs/exported.md.",
        )
