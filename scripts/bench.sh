#!/usr/bin/env bash
# The benchmark: environments of the peers, then the table. ROW=name runs one row, QUICK=1 repeats nothing,
# ONLY=table|curves|overhead|coalescing|report one part. DTYPE=, COUNT= and LIMIT=seconds run less of the table; what comes
# of those, or of anything with OUT=folder, leaves benchmarks/ as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/bench-venvs.sh "${1:-python3}"
# The same for every contestant: all cores, and threads that soon sleep while they wait, as the service's do.
cores="$(nproc)"
spins="$(.venv/bin/python -c 'from ihvp.settings import SPINS; print(SPINS)')"
export OMP_NUM_THREADS="$cores" MKL_NUM_THREADS="$cores" GOMP_SPINCOUNT="$spins" PYTHONPATH=.
exec .venv/bin/python -m benchmarks ${ROW:+--row "$ROW"} ${QUICK:+--quick} ${ONLY:+--only "$ONLY"} \
    ${DTYPE:+--dtype "$DTYPE"} ${COUNT:+--count "$COUNT"} ${LIMIT:+--limit "$LIMIT"} ${OUT:+--out "$OUT"}
