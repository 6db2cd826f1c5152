"""The floor: what a bare FastAPI application on the same store serves, with nothing of ours in it.

``GET /key`` reads one Redis key; ``POST /entry`` writes one entry, which the store syncs to disk before it answers.
"""

from __future__ import annotations

import sys

import redis.asyncio
import uvicorn
from fastapi import FastAPI, Request, Response

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

    @app.get("/key")
    async def read() -> Response:
        found = await store.get("floor")
        return Response(found or DOCUMENT, media_type="application/json")

    @app.post("/entry")
    async def write(request: Request) -> Response:
        await store.xadd("entries", {"document": await request.body()}, maxlen=1000)
        return Response(status_code=202)

    return app


def main() -> None:
    """Serves on the port that is named, from the store that is named."""
    url, port = sys.argv[1:]
    with redis.Redis.from_url(url) as store:
        store.set("floor", DOCUMENT)
    uvicorn.run(make_floor(url), port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
