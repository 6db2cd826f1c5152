"""What is removed from an environment, and what has to stay."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.dockerfile import ROOT

STAY = [
    "numpy/__init__.py",
    "numpy/_core/_multiarray_umath.so",
    "torch/testing/__init__.py",
    "torch/bin/torch_shm_manager",
    "torch/lib/libtorch_cpu.so",
    "botocore/data/s3/2006-03-01/service-2.json",
    "botocore/data/endpoints.json",
    "pyarrow/libarrow_substrait.so.2500",
    "pygments/lexers/python.py",
    "pydantic/v1/networks.py",
]
GO = [
    "numpy/_core/tests/test_multiarray.py",
    "torch/include/torch/torch.h",
    "torch/bin/test_jit",
    "torch/test/a.py",
    "botocore/data/ec2/2016-11-15/service-2.json",
    "pyarrow/libarrow_flight.so.2500",
    "pip/__init__.py",
    "pip-24.0.dist-info/METADATA",
    "uvloop/loop.pyx",
    "x/__pycache__/x.cpython-311.pyc",
    "x/y.pyi",
]


def test_an_environment_keeps_what_runs(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    for name in STAY + GO:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(b"x" * 2**20)
    said = _run(tmp_path)
    assert {name for name in STAY + GO if (packages / name).exists()} == set(STAY)
    assert "1.0 MiB  botocore/data" in said
    assert (tmp_path / "bin").exists()


@pytest.mark.skipif(
    not Path(sys.base_prefix, "lib/python3.11/os.py").exists(), reason="another Python than the images'"
)
def test_a_python_keeps_what_its_modules_need(tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*", "lib-dynload")
    shutil.copytree(Path(sys.base_prefix) / "lib/python3.11", tmp_path / "lib/python3.11", ignore=left_out)
    (tmp_path / "lib/python3.11/site-packages/pip").mkdir(parents=True)
    _run(tmp_path)
    gone = {"pip", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtle.py"}
    assert not gone & {path.name for path in tmp_path.rglob("*")}
    # Of those that stay, each finds what it imports in what is left.
    modules = [
        "asyncio",
        "concurrent.futures",
        "email.message",
        "http.client",
        "importlib.metadata",
        "json",
        "logging.config",
        "multiprocessing.pool",
        "unittest.mock",
        "venv",
        "xml.etree.ElementTree",
        "zoneinfo",
    ]
    first = str(tmp_path / "lib/python3.11")
    code = f"import sys; sys.path[0] = {first!r}; import {', '.join(modules)}; print(asyncio.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith(str(tmp_path))


def _run(folder: Path) -> str:
    return subprocess.run(
        [sys.executable, ROOT / "docker/leave_out.py", folder], capture_output=True, text=True, check=True
    ).stdout
