"""What the doctor says of one thing."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Finding", "Health"]


class Health(str, Enum):
    """How bad it is."""

    Ok = "ok"
    Warning = "warning"
    Fault = "fault"


class Finding(BaseModel):
    """One thing that the service needs, and how it is."""

    model_config = ConfigDict(frozen=True)

    subject: str = Field(description="What was looked at.")
    health: Health = Field(description="A fault keeps the service from working; with a warning it works, less well.")
    found: str = Field(description="How it is.")
    mend: str | None = Field(None, description="The command or setting that mends it; null where nothing is wrong.")

    @classmethod
    def good(cls, subject: str, found: str) -> Finding:
        """Nothing is wrong."""
        return cls(subject=subject, health=Health.Ok, found=found)

    @classmethod
    def warning(cls, subject: str, found: str, mend: str) -> Finding:
        """It works, less well than it could."""
        return cls(subject=subject, health=Health.Warning, found=found, mend=mend)

    @classmethod
    def fault(cls, subject: str, found: str, mend: str) -> Finding:
        """It does not work."""
        return cls(subject=subject, health=Health.Fault, found=found, mend=mend)
