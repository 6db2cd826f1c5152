"""Load from wrk, which is not ours: requests a second, and how long the slowest took."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Served", "TrafficFailed", "find_wrk", "run_wrk"]

CONNECTIONS: Final = 16
# %d in the body is replaced by a number that grows, so that no two requests are the same.
SCRIPT: Final = """
local body, number = {body}, {first}
wrk.method = {method}
for name, value in pairs({headers}) do wrk.headers[name] = value end
function request()
  number = number + 1
  return wrk.format(nil, nil, nil, body and string.gsub(body, '%%d', tostring(number)) or nil)
end
function done(summary, latency)
  local failed = summary.errors
  local torn = failed.connect + failed.read + failed.write + failed.timeout
  local form = '{{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "bad": %d, "torn": %d}}'
  local p50, p99 = latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  io.write('\\n@', string.format(form, summary.requests, summary.duration / 1e6, p50, p99, failed.status, torn), '\\n')
end
"""


class TrafficFailed(Exception):
    """wrk did not run, or answers were not what they should be."""


@dataclass(frozen=True)
class Served:
    """What came of some seconds of load.

    Attributes:
        rate: Requests a second.
        p50_ms: Half of them took no longer.
        p99_ms: All but one in a hundred took no longer.
    """

    rate: float
    p50_ms: float
    p99_ms: float


def find_wrk() -> str | None:
    """The program, if it is installed."""
    return shutil.which("wrk")


def run_wrk(
    url: str,
    seconds: float,
    *,
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
    first: int = 0,
    connections: int = CONNECTIONS,
) -> Served:
    """Sends requests over so many connections for so long, one after the other on each.

    Args:
        url: Where to.
        seconds: For how long; wrk takes whole ones.
        body: Sent by POST; ``%d`` in it becomes a number of its own in each request. None sends GET.
        headers: Of each request.
        first: Number before the first.
        connections: How many.

    Raises:
        TrafficFailed: An answer was an error, or a connection broke.
    """
    wrk = find_wrk()
    if wrk is None:
        raise TrafficFailed("wrk is not installed")
    sent = {**({"Content-Type": "application/json"} if body else {}), **(headers or {})}
    script = SCRIPT.format(
        body="nil" if body is None else _lua(body),
        first=first,
        method=_lua("GET" if body is None else "POST"),
        headers="{" + ", ".join(f"[{_lua(name)}] = {_lua(value)}" for name, value in sent.items()) + "}",
    )
    with tempfile.TemporaryDirectory(prefix="ihvp-load-") as folder:
        path = Path(folder) / "requests.lua"
        path.write_text(script)
        command = [
            wrk,
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "20s",
            "-s",
            str(path),
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    line = next((line[1:] for line in done.stdout.splitlines() if line.startswith("@")), None)
    if line is None:
        raise TrafficFailed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    told = json.loads(line)
    if told["bad"] or told["torn"]:
        raise TrafficFailed(f"{url}: {told['bad']} error answers and {told['torn']} broken connections: {line}")
    return Served(told["requests"] / told["seconds"], told["p50_ms"], told["p99_ms"])


def _lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
