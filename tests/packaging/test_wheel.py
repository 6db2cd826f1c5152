"""The wheel carries the contract, the client and the command line, and nothing of the service."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from ihvp import __version__
from ihvp.settings import child_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site packages")
    command = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, timeout=60)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python where the wheel is installed and this checkout, an editable install here, is not."""
    # Without `site` no .pth file is read, so the dependencies come as plain folders and nothing else does.
    folders = [str(installed), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    environment = child_environment() | {"PYTHONPATH": ":".join(folders)}
    return subprocess.run(
        [sys.executable, "-S", *arguments], cwd=installed, env=environment, capture_output=True, text=True, timeout=60
    )


def test_ihvp_is_the_only_name_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ihvp", f"ihvp-{__version__}.dist-info"}
    assert f"ihvp-{__version__}.dist-info/licenses/LICENSE" in names


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    package = ROOT / "ihvp"
    files = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert any(name.endswith(".lua") for name in files)
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_the_client_works_from_the_wheel_without_the_service(installed: Path) -> None:
    program = (
        "import importlib.util as u, ihvp, sys; from ihvp import Client; import ihvp.cli.main\n"
        "assert ihvp.__file__.startswith(sys.argv[1]), ihvp.__file__\n"
        "assert not [n for n in ('app', 'workers', 'solvers') if u.find_spec(n)]\n"
        "print('torch' in sys.modules, 'fastapi' in sys.modules, 'celery' in sys.modules)"
    )
    done = run(installed, "-c", program, str(installed))
    assert done.stdout == "False False False\n", done.stderr


def test_the_command_works_from_the_wheel(installed: Path) -> None:
    assert run(installed, str(installed / "bin" / "ihvp"), "--version").stdout == f"{__version__}\n"


def test_up_outside_a_checkout_says_so_in_one_line(installed: Path, tmp_path: Path) -> None:
    done = run(installed, str(installed / "bin" / "ihvp"), "up", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "'ihvp up' runs the service from its checkout" in line
    assert not (tmp_path / "data").exists()
