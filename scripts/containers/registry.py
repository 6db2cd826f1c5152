"""What pip needs inside of a build to reach this machine's registry: its configuration, certificates and folders."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scripts.containers.commands import answer

__all__ = ["pip_mounts"]

# What of pip's settings says where packages come from; the rest is this machine's taste.
_SETTINGS: Final = (
    "index-url",
    "extra-index-url",
    "find-links",
    "constraint",
    "cert",
    "proxy",
    "trusted-host",
    "timeout",
)
_SETTING: Final = re.compile(r"^(?P<scope>[^.]+|:env:)\.(?P<name>[\w-]+)='(?P<value>.*)'$")
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"


def pip_mounts(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Volumes for ``buildah bud``, each ``here:there:ro``: a pip.conf written in ``folder``, and all that it names.

    Args:
        folder: Where the file may be written.
        environment: Of the commands.
    """
    listed = answer([sys.executable, "-m", "pip", "config", "list"], environment).splitlines()
    found: dict[str, str] = {}
    # Listed from the weakest to the strongest but for the environment, which comes first and stands over all.
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        if (match := _SETTING.match(line)) and (name := match["name"].removeprefix("default-")) in _SETTINGS:
            found[name] = match["value"].replace("\\n", " ")
    text = "".join(f"{name} = {value}\n" for name, value in sorted(found.items()))
    (folder / "pip.conf").write_text(f"[global]\n{text}", encoding="utf-8")
    named = {place.removeprefix("file://") for value in found.values() for place in value.split() if "/" in place}
    # An index made of links: what it links to must be there as well.
    places = {
        str(Path(place).parent if place.endswith("/simple") else place) for place in named if place.startswith("/")
    }
    places.add(_CERTIFICATES)
    return [f"{folder}/pip.conf:/etc/pip.conf:ro"] + [f"{p}:{p}:ro" for p in sorted(places) if Path(p).exists()]
