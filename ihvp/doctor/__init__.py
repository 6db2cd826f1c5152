"""Looks over everything that the service needs on this machine, and says what mends what is wrong."""

from __future__ import annotations

from ihvp.doctor.examination import examine
from ihvp.doctor.finding import Finding, Health

__all__ = ["Finding", "Health", "examine"]
