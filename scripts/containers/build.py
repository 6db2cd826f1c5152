"""ihvp's images: ``python -m scripts.containers.build`` builds them and prints what each takes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from ihvp import __version__
from scripts.containers.base import base_images
from scripts.containers.commands import CommandFailed, ended, say
from scripts.containers.engine import ROOT, Engine, prepared
from scripts.containers.registry import pip_mounts

__all__ = ["IMAGES", "BuiltImage", "Image", "build_images"]

MB: Final = 10**6
_LOOK: Final = (
    r'for file in $(find /usr /opt -type f \( -name "*.so*" -o -perm -100 \) 2>/dev/null); do '
    r'missing=$(ldd "$file" 2>/dev/null | grep "not found"); '
    r'if [ -n "$missing" ]; then echo "$file:" $missing; fi; done'
)
_CPU_BUILDS: Final = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Image:
    """An image to be built.

    Attributes:
        name: With its tag.
        dockerfile: From the repository's root.
        packages: The stage that installs packages, which alone reaches their registry.
        target: The last stage.
        most_mb: What all its layers may take, unpacked, in 10⁶ bytes.
    """

    name: str
    dockerfile: str
    packages: str
    target: str | None
    most_mb: int


IMAGES: Final = (
    Image(f"ihvp-api:{__version__}", "docker/api.Dockerfile", "environment", None, 200),
    Image(f"ihvp-worker:{__version__}-cpu", "docker/worker.Dockerfile", "environment-cpu", "cpu", 1300),
)


@dataclass(frozen=True)
class BuiltImage:
    """An image that was built.

    Attributes:
        image: Which.
        megabytes: Of all its layers, unpacked, in 10⁶ bytes.
        seconds: That building it took; few where layers of an earlier build were used.
    """

    image: Image
    megabytes: float
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether it is no larger than it may be."""
        return self.megabytes <= self.image.most_mb


def build_images(engine: Engine, images: Sequence[Image] = IMAGES) -> list[BuiltImage]:
    """Builds images from the checkout, by what was built before where nothing changed.

    Raises:
        Skipped: What they stand on is not to be had.
        CommandFailed: A build failed.
    """
    base_images(engine)
    arguments = [f"--build-arg={name}={value}" for name, value in _arguments().items()]
    mounts = [f"--volume={mount}" for mount in pip_mounts(engine.folder / "config", engine.environment)]
    return [_built(engine, image, arguments, mounts) for image in images]


def _built(engine: Engine, image: Image, arguments: list[str], mounts: list[str]) -> BuiltImage:
    say(f"containers: building {image.name}")
    start = time.monotonic()
    build: list[str] = ["buildah", "bud", "--isolation=chroot", "--pull-never", "--format=docker", "--layers"]
    build += [f"--file={ROOT / image.dockerfile}", *arguments]
    # Twice: a volume leaves an empty file or folder where it was mounted, in every stage that runs something. So the
    # stage of the packages is made with volumes and comes from the cache in the second build, which has none.
    engine.run(*build, *mounts, f"--target={image.packages}", ROOT)
    engine.run(*build, *([f"--target={image.target}"] if image.target else []), f"--tag={image.name}", ROOT)
    seconds = time.monotonic() - start
    _check_libraries(engine, image)
    size = int(engine.answer("podman", "image", "inspect", "--format", "{{.Size}}", f"localhost/{image.name}"))
    return BuiltImage(image, size / MB, seconds)


def _check_libraries(engine: Engine, image: Image) -> None:
    """Whether all that is compiled finds the libraries that it is linked to, after so much was left out.

    Raises:
        CommandFailed: Something does not.
    """
    look = ["podman", "run", "--rm", "--network=none", "--entrypoint=bash", f"localhost/{image.name}", "-c", _LOOK]
    if broken := engine.answer(*look, timeout_s=600).splitlines():
        raise CommandFailed(f"{image.name} lacks libraries of {len(broken)} files: {'; '.join(broken[:5])}")


def _arguments() -> dict[str, str]:
    return {
        "VERSION": __version__,
        "REVISION": _git("rev-parse", "HEAD"),
        # A label is read by whoever has the image, and an address may carry a token.
        "SOURCE": re.sub(r"//[^/@]*@", "//", _git("remote", "get-url", "origin")),
        "TORCH_INDEX_URL": _torch_index(),
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _torch_index() -> str:
    """Where torch's build for processors comes from; empty where its index cannot be reached and pip's own must do."""
    try:
        if httpx.head(f"{_CPU_BUILDS}/torch/", timeout=10, follow_redirects=True).is_success:
            return _CPU_BUILDS
    except httpx.HTTPError:
        pass
    say(f"containers: {_CPU_BUILDS} cannot be reached; torch comes from where pip takes everything else")
    return ""


def _main() -> None:
    built = build_images(prepared())
    for each in built:
        line = (
            f"{each.image.name:24} {each.megabytes:7.1f} MB of {each.image.most_mb} MB, built in {each.seconds:.0f} s"
        )
        sys.stdout.write(f"{line}\n")
    large = [each.image.name for each in built if not each.fits]
    if large:
        raise CommandFailed(f"larger than it may be: {', '.join(large)}")


if __name__ == "__main__":
    sys.exit(ended(_main))
