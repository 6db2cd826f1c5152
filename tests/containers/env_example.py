"""The lines on settings that .env.example has to have: `python -m tests.containers.env_example` prints them."""

from __future__ import annotations

import json
from typing import Any, Final

from ihvp.settings import Settings
from tests.containers.compose_file import TEXT, composed, variables

__all__ = ["FIXED", "setting_lines"]

FIXED: Final = {name for name in composed()["x-part"]["environment"] if f"${{{name}" not in TEXT} & {
    f"IHVP_{name.upper()}" for name in Settings.model_fields
}
"""Settings that the layout of the containers decides."""
SECRET: Final = {"IHVP_STORE_PASSWORD"}
"""A file among the secrets, never a variable."""


def setting_lines() -> list[str]:
    """Meaning and default of each setting that .env decides and the file's first part has not."""
    elsewhere = FIXED | SECRET | {"IHVP_PUBLISH"}
    lines = []
    for name, field in Settings.model_fields.items():
        variable = f"IHVP_{name.upper()}"
        if variable not in elsewhere:
            default = variables(TEXT).get(variable) or _written(field.default)
            lines += [f"# {field.description}", f"#{variable}={default}"]
    return lines


def _written(value: Any) -> str:
    """A default as the environment writes it."""
    if value is None:
        return ""
    if isinstance(value, bool | tuple):
        return json.dumps(value)
    return str(value)


if __name__ == "__main__":
    print("\n".join(setting_lines()))
