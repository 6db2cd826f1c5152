"""A model and its data in a bucket of S3: nothing is uploaded to the service, it reads them where they are.

Run it with ``python -m examples.bucket``. It starts a server that speaks S3 on this machine (moto's), puts a trained
network and its training digits into a bucket, and has a service solve on them that has been allowed this bucket.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from examples.command import console, run_example
from examples.digits import ARCHITECTURE, load_digits_split, predict, train_mlp
from examples.hardest_digits import HardestDigits
from examples.running_service import RunningService
from ihvp import Client
from ihvp.client.uploads import tensor_bytes

BUCKET: Final = "trained-models"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    return run_example("bucket", __doc__, _run, arguments)


def _run(out: Path) -> bool:
    with _bucket() as bucket, RunningService(out / "data", source_buckets=f'["s3://{BUCKET}"]') as service:
        digits = load_digits_split()
        weights = train_mlp(digits)
        question = HardestDigits(digits, predict(weights, digits.test_images))
        stored = {
            "digits/weights.safetensors": tensor_bytes(weights),
            "digits/images.npy": _npy(digits.train_images),
            "digits/labels.npy": _npy(digits.train_labels),
        }
        for key, data in stored.items():
            bucket.put_object(Bucket=BUCKET, Key=key, Body=data)
        url = service.wait_until_ready()
        console.print(f"Service ready at {url}, s3://{BUCKET} allowed")
        with Client(url) as client:
            model = client.register_model(
                "digits-in-a-bucket",
                architecture=ARCHITECTURE,
                weights=f"s3://{BUCKET}/digits/weights.safetensors",
                loss="cross_entropy",
                data={
                    "inputs": f"s3://{BUCKET}/digits/images.npy",
                    "targets": f"s3://{BUCKET}/digits/labels.npy",
                },
            )
            console.print(f"Registered {model.reference}, pinned to what the bucket holds now:")
            for uri, pin in model.spec.sources.items():
                console.print(f"  {uri}  {pin.size} bytes, ETag {pin.etag}", soft_wrap=True)
            return question.solve(client, model.reference)


@contextmanager
def _bucket() -> Iterator[Any]:
    """A client of an S3 server, which this process' environment names, as it would name a real one."""
    import botocore.session  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request would hide ours
    # boto reads the environment, here and in the service, which inherits it.
    os.environ |= {  # noqa: TID251
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "example",
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = botocore.session.get_session().create_client("s3")
    try:
        client.create_bucket(Bucket=BUCKET)
        yield client
    finally:
        server.stop()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
