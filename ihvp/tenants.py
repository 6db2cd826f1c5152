"""Tenants: whose a job, a model or a blob is."""

from __future__ import annotations

import re
from typing import Final

from ihvp.errors import InvalidInput

__all__ = ["DEFAULT_TENANT", "TENANT_PATTERN", "parse_tenant"]

DEFAULT_TENANT: Final = "default"
"""Whose everything is while no API key is configured."""
TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"


def parse_tenant(text: str) -> str:
    """Reads the name of a tenant.

    Raises:
        InvalidInput: It has characters that names of tenants cannot have, or is too long.
    """
    if not re.fullmatch(TENANT_PATTERN, text, re.ASCII):
        raise InvalidInput(
            "This is no name of a tenant.",
            given=text[:100],
            allowed="1 to 63 small letters, digits and -, a letter or digit first",
        )
    return text
