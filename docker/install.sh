#!/bin/bash
# install.sh EXTRAS [INDEX OF TORCH]: makes /opt/ihvp while an image is built; runs in /srv/ihvp, tools in /tmp/build.
set -euo pipefail
index="${2:-}"
# pip only warns of an extra that is not there.
extras="$(python - "$1" <<'END'
import sys, tomllib
from pathlib import Path

wanted = [name.strip() for name in sys.argv[1].split(",") if name.strip()]
known = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
if unknown := [name for name in wanted if name not in known]:
    sys.exit(f"IHVP_EXTRAS: no extra {', '.join(unknown)} in pyproject.toml; there are {', '.join(known)}")
print(",".join(wanted))
END
)"

python -m venv --without-pip /opt/ihvp
pip=(python -m pip --python /opt/ihvp/bin/python --disable-pip-version-check)
# The index of torch's builds holds old versions of other packages too: torch alone is taken from it.
if [ -n "$index" ]; then
    "${pip[@]}" install -q --no-deps --constraint constraints.txt --index-url "$index" torch
fi
# Editable: of ihvp itself a path alone is installed, /srv/ihvp, where the rooms come to lie.
"${pip[@]}" install -q --constraint constraints.txt --editable ".[$extras]"
"${pip[@]}" check

python /tmp/build/leave_out.py /opt/ihvp
python /tmp/build/leave_out.py /usr/local
# Libraries that auditwheel has renamed, torch's and pyarrow's come stripped or do not bear it.
find /opt/ihvp -name '*.so' -not -path '*.libs/*' -not -path '*/torch/*' -not -path '*/pyarrow/*' \
    -exec strip --strip-unneeded {} +

# Nothing that is used may miss what was left out.
/opt/ihvp/bin/python - <<'END'
import importlib
from importlib.util import find_spec

used = ("numpy", "safetensors.numpy", "s3fs", "gcsfs", "pyarrow.parquet", "pyarrow.ipc", "torch.func", "transformers", "peft")
for name in used:
    if find_spec(name.split(".")[0]):
        importlib.import_module(name)
END

# Of what is there now: neither pip nor setuptools is, whatever asked for them.
/tmp/build/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
    --output-file /tmp/build/sbom.cdx.json /opt/ihvp/bin/python
