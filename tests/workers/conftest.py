"""What the workers' tests share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ihvp.blobs.filesystem import FilesystemBlobStore


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the module path into which pip has installed the test's plug-in package."""
    site = tmp_path_factory.mktemp("plugin site")
    package = Path(__file__).parent / "plugin_package"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(package)], check=True)
    return site


@pytest.fixture
def blobs(tmp_path: Path) -> FilesystemBlobStore:
    """An empty blob store."""
    return FilesystemBlobStore(tmp_path / "blobs")
