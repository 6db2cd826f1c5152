"""Removes from an environment what no part of the service uses, while an image is built; says what each thing took.

``python leave_out.py /opt/ihvp`` for an environment, ``python leave_out.py /usr/local`` for Python itself.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Patterns below the folder of packages, each with the reason why nobody misses it.
PACKAGES = {
    "**/__pycache__": "compiled anew below, once, for what is left",
    "**/*.pyi": "types for editors and checkers",
    "**/*.[ch]": "sources of what is compiled",
    "**/*.pyx": "sources of what is compiled",
    "**/*.pxd": "sources of what is compiled",
    "*/tests": "tests of packages",
    "*/*/tests": "tests of packages",
    "pip": "the image installs nothing",
    "pip-*.dist-info": "the image installs nothing",
    "setuptools": "the image installs nothing",
    "setuptools-*.dist-info": "the image installs nothing",
    "pkg_resources": "the image installs nothing",
    "_distutils_hack": "the image installs nothing",
    "distutils-precedence.pth": "the image installs nothing",
    # torch: nothing is compiled against it, and its own tests are not run.
    "torch/include": "headers",
    "torch/share": "CMake files",
    "torch/test": "torch's own tests",
    "torch/bin/*[Tt]est*": "torch's own tests",
    "torch/bin/protoc*": "a compiler of protocol buffers",
    "torch/lib/*_test.so": "torch's own tests",
    "torch/utils/model_dump": "a viewer in the browser",
    # numpy: f2py and distutils compile Fortran and C.
    "numpy/f2py": "a compiler's front end",
    "numpy/distutils": "a compiler's front end",
    "numpy/_core/include": "headers",
    "numpy/_core/lib": "a static library",
    "numpy/random/lib": "a static library",
    "numpy/_core/_simd*": "numpy's own tests",
    "numpy/_core/_*_tests*": "numpy's own tests",
    "multidict/_testcapi*": "tests of multidict",
    # rich colours tracebacks and what commands show by them: Python, JSON and shell.
    "pygments/lexers/_*_builtins.py": "words of languages that are not shown",
    "pygments/lexers/[a-cf-ik-or-rt-z]*.py": "languages that are not shown",
    # pyarrow: columns of Parquet and Arrow files are read, nothing else.
    "pyarrow/include": "headers",
    "pyarrow/src": "sources of what is compiled",
    "pyarrow/libarrow_flight*": "a network protocol",
    "pyarrow/libarrow_python_flight*": "a network protocol",
    "pyarrow/_flight*": "a network protocol",
}
# botocore describes 400 services of AWS; s3fs speaks to one, and to those that lend it credentials.
AWS_SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}
# Below /usr/local.
PYTHON = {
    "bin/pip*": "the image installs nothing",
    "bin/wheel": "the image installs nothing",
    "bin/idle*": "an editor",
    "bin/2to3*": "a converter of Python 2",
    "bin/pydoc*": "documentation",
    "bin/python*-config": "for compilers",
    "include": "headers",
    "share/man": "documentation",
    "lib/pkgconfig": "for compilers",
    "lib/python3*/site-packages/*": "the image installs nothing",
    "lib/python3*/ensurepip": "the image installs nothing",
    "lib/python3*/config-*": "for compilers",
    "lib/python3*/idlelib": "an editor",
    "lib/python3*/tkinter": "windows on a screen",
    "lib/python3*/lib-dynload/_tkinter*": "windows on a screen",
    "lib/python3*/turtledemo": "windows on a screen",
    "lib/python3*/turtle.py": "windows on a screen",
    "lib/python3*/lib2to3": "a converter of Python 2",
    "lib/python3*/pydoc_data": "documentation",
    "lib/python3*/lib-dynload/nis*": "a directory of users, with libraries of its own",
    "lib/python3*/lib-dynload/_test*": "tests of Python",
    "lib/python3*/lib-dynload/_ctypes_test*": "tests of Python",
    "**/__pycache__": "compiled anew below, once, for what is left",
}
SHOWN_MIB = 0.5


def leave_out(folder: Path) -> dict[str, float]:
    """Removes what is not needed; MiB by pattern."""
    packages = next(iter(sorted(folder.glob("lib/python3*/site-packages"))))
    at, patterns = (packages, PACKAGES) if (folder / "pyvenv.cfg").exists() else (folder, PYTHON)
    saved = {pattern: sum(_remove(path) for path in list(at.glob(pattern))) for pattern in patterns}
    for service in list(at.glob("botocore/data/*/")):
        if service.is_dir() and service.name not in AWS_SERVICES:
            saved["botocore/data"] = saved.get("botocore/data", 0.0) + _remove(service)
    return saved


def _remove(path: Path) -> float:
    if path.is_dir() and not path.is_symlink():
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        size = path.lstat().st_size
        path.unlink()
    else:
        return 0.0
    return size / 2**20


if __name__ == "__main__":
    for pattern, size in sorted(leave_out(Path(sys.argv[1])).items(), key=lambda item: -item[1]):
        if size >= SHOWN_MIB:
            sys.stdout.write(f"left out {size:7.1f} MiB  {pattern}\n")
