"""The floor: what a bare FastAPI application on the same store serves, with nothing of ours in it.

``GET /key`` reads one Redis key; ``POST /entry`` writes one entry, which the store syncs to disk before it answers.
``POST /task`` writes one, sends a message through Celery to a worker that answers at once, and waits for its answer.
"""

from __future__ import annotations

import sys
from uuid import uuid4

import redis.asyncio
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response

from benchmarks.load.floor_worker import ANSWER, TASK, make_app

__all__ = ["make_floor"]

DOCUMENT = b"x" * 1500
"""About the size of a job."""


def make_floor(url: str) -> FastAPI:
    """The application.

    Args:
        url: A database of the store's server that nobody else uses.
    """
    app = FastAPI()
    store = redis.asyncio.Redis.from_url(url)
    celery = make_app(url)

    @app.get("/key")
    async def read() -> Response:
        found = await store.get("floor")
        return Response(found or DOCUMENT, media_type="application/json")

    @app.post("/entry")
    async def write(request: Request) -> Response:
        await store.xadd("entries", {"document": await request.body()}, maxlen=1000)
        return Response(status_code=202)

    @app.post("/task")
    async def ask(request: Request) -> Response:
        asked = uuid4().hex
        await store.xadd("entries", {"document": await request.body()}, maxlen=1000)
        await to_thread.run_sync(lambda: celery.send_task(TASK, args=[asked, DOCUMENT.decode()], ignore_result=True))
        found = await store.blpop([ANSWER + asked], timeout=15)
        return Response(found[1] if found else b"", 200 if found else 504, media_type="application/json")

    return app


def main() -> None:
    """Serves on the port that is named, from the store that is named."""
    url, port = sys.argv[1:]
    with redis.Redis.from_url(url) as store:
        store.set("floor", DOCUMENT)
    uvicorn.run(make_floor(url), port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
