"""The root of all errors that ihvp raises on purpose."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "IhvpError",
]


class IhvpError(Exception):
    """The root of all errors that ihvp raises on purpose.

    Args:
        message: One sentence on what is wrong.
        given: What the caller sent, short enough to print.
        allowed: What would have been accepted.
        hint: What to try next.
    """

    code: ClassVar[str] = "internal_error"
    retry_after_s: float | None = None
    """Seconds after which the same request may succeed; None where repeating it is of no use."""

    def __init__(
        self, message: str, *, given: Any | None = None, allowed: Any | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.given = given
        self.allowed = allowed
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        if self.given is not None:
            parts.append(f"Given: {self.given}.")
        if self.allowed is not None:
            parts.append(f"Allowed: {self.allowed}.")
        if self.hint is not None:
            parts.append(self.hint)
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The parts of the error as JSON-ready values, without those that were not said."""
        parts = {name: getattr(self, name) for name in ("code", "message", "given", "allowed", "hint")}
        return {name: value for name, value in parts.items() if value is not None}
