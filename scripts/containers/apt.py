"""Packages of Debian: those that are missing, and single files of a release that is not this machine's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scripts.containers.commands import CommandFailed, Skipped, run, say

__all__ = ["compose_plugin", "install_missing"]

# Where each program is, for a package is not missing because it came some other way.
PROGRAMS: Final = {
    "buildah": "/usr/bin/buildah",
    "podman": "/usr/bin/podman",
    "runc": "/usr/sbin/runc",
    "crun": "/usr/bin/crun",
    "debootstrap": "/usr/sbin/debootstrap",
    # podman's networks: names of services are found by aardvark-dns, addresses given and ports published by netavark.
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "iptables": "/usr/sbin/iptables",
}
_KEYS: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def install_missing(environment: Mapping[str, str], log: Path) -> list[str]:
    """Installs those of buildah, podman and what they need that are not there; the names of what was installed.

    Raises:
        Skipped: They are missing and cannot be installed here.
    """
    missing = [name for name, place in PROGRAMS.items() if not Path(place).exists() and not shutil.which(name)]
    if not missing:
        return []
    _require_apt(f"{', '.join(missing)} missing")
    say(f"containers: apt-get install {' '.join(missing)}")
    quiet = {**environment, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(["apt-get", "update", "-q"], quiet, log)
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing], quiet, log)
    except CommandFailed as failed:
        raise Skipped(f"apt-get could not install {', '.join(missing)} ({log})") from failed
    return missing


def compose_plugin(place: Path, rooms: Path, environment: Mapping[str, str], log: Path) -> Path:
    """Docker's compose v2 at ``place``: copied where this machine has it, else unpacked from Debian trixie's package.

    Debian bookworm has version 1 only. The package is looked up with lists and a cache of its own, so that this
    machine's apt never hears of another release.

    Args:
        place: The file to be made.
        rooms: Folder for apt's lists and what is unpacked.
        environment: Of the commands.
        log: Where they write.

    Raises:
        Skipped: There is none, and it cannot be had.
    """
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    known = ("/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins", "/usr/local/lib/docker/cli-plugins")
    for folder in known:
        if (found := Path(folder, "docker-compose")).exists():
            place.symlink_to(found)
            return place
    _require_apt("no docker-compose plugin")
    if not _KEYS.exists():
        raise Skipped(f"no docker-compose plugin, and no {_KEYS} to check Debian's package of it with")
    say("containers: docker-compose of Debian trixie")
    rooms.mkdir(parents=True, exist_ok=True)
    for folder in ("lists/partial", "cache/archives/partial", "unpacked"):
        (rooms / folder).mkdir(parents=True, exist_ok=True)
    sources = rooms / "trixie.sources"
    sources.write_text(
        f"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\nSigned-By: {_KEYS}\n",
        encoding="utf-8",
    )
    configuration = rooms / "apt.conf"
    lines = {
        "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": rooms / "lists", "Dir::Cache": rooms / "cache", "APT::Sandbox::User": "root",
    }  # fmt: skip
    configuration.write_text("".join(f'{key} "{value}";\n' for key, value in lines.items()), encoding="utf-8")
    private = {**environment, "APT_CONFIG": str(configuration)}
    try:
        run(["apt-get", "update", "-q"], private, log)
        # `apt-get download` writes where it stands.
        run(["env", "-C", rooms / "unpacked", "apt-get", "download", "-q", "docker-compose"], private, log)
        package = next((rooms / "unpacked").glob("docker-compose_*.deb"))
        run(["dpkg-deb", "-x", package, rooms / "unpacked"], private, log)
    except CommandFailed as failed:
        raise Skipped(f"docker-compose could not be fetched from Debian trixie ({log})") from failed
    shutil.copy2(rooms / "unpacked/usr/libexec/docker/cli-plugins/docker-compose", place)
    shutil.rmtree(rooms / "unpacked")
    return place


def _require_apt(need: str) -> None:
    if os.geteuid() != 0:
        raise Skipped(f"{need}, and only root may install it")
    if not shutil.which("apt-get"):
        raise Skipped(f"{need}, and there is no apt to install it with")
