"""The API as a process: quick to start, small, and without the numerics."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ihvp.settings import Settings, child_environment

ROOT = Path(__file__).parents[2]

# Starts the application as uvicorn does, serves requests, and tells what this process has become.
PROBE = textwrap.dedent(
    """
    import json, sys, time
    started = time.perf_counter()
    import asyncio, httpx, psutil
    from app.main import create_app

    async def main():
        app = create_app()
        async with app.router.lifespan_context(app):
            up = time.perf_counter() - started
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
                for path in ("/readyz", "/v1/jobs", "/v1/models", "/v1/methods", "/openapi.json", "/metrics"):
                    response = await http.get(path)
                    assert response.status_code in (200, 503), response.text
        roots = sorted({name.partition(".")[0] for name in sys.modules})
        # redis-py loads the SDK's metrics by itself as soon as they are installed.
        tracing = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.instrumentation", "google.")
        otel = [name for name in sys.modules if name.startswith(tracing)]
        rss = psutil.Process().memory_info().rss
        print(json.dumps({"up": up, "rss": rss, "roots": roots, "otel": otel}))

    asyncio.run(main())
    """
)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, valkey_server: object) -> dict[str, object]:
    settings = Settings(redis_url=valkey_server.url)  # type: ignore[attr-defined]
    environment = child_environment(
        redis_url=settings.redis_url, namespace="probe", data_dir=str(tmp_path_factory.mktemp("probe"))
    )
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("module", ["torch", "numpy", "solvers", "workers", "safetensors", "scipy"])
def test_the_api_process_does_not_load(probed: dict[str, list[str]], module: str) -> None:
    assert "fastapi" in probed["roots"]
    assert module not in probed["roots"]


def test_without_a_collector_nothing_of_tracing_is_loaded(probed: dict[str, list[str]]) -> None:
    assert probed["otel"] == []
    assert "requests" not in probed["roots"]


def test_the_api_process_is_small(probed: dict[str, int]) -> None:
    assert probed["rss"] <= 120 * 1024 * 1024


def test_importing_the_application_builds_and_reads_nothing() -> None:
    code = "import app.main, sys; assert 'celery' not in sys.modules; print(hasattr(app.main, 'app'))"
    environment = child_environment(redis_url="not a url at all")
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
