"""A model whose files are elsewhere, through the whole service: API, broker, worker, as real processes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ihvp import Client
from ihvp.errors import SourceNotAllowed
from tests.places import Places
from tests.sources.problem import DAMPING, Regression, spec

pytestmark = pytest.mark.service


def test_weights_on_s3_and_data_by_https(client: Client, places: Places) -> None:
    regression = Regression.make()
    files = regression.files
    places.s3.create_bucket(Bucket="models")
    places.s3.put_object(Bucket="models", Key="prices/weights.safetensors", Body=files["weights.safetensors"])
    weights, data = (
        "s3://models/prices/weights.safetensors",
        places.web.put("/data.safetensors", files["data.safetensors"]),
    )
    assert data.startswith("https://localhost:")
    model = client.register_model("prices-elsewhere", spec(weights, data))
    assert model.num_points == 30
    result = client.solve(model=model.reference, rhs=regression.b, hessian_perturbation=DAMPING, progress=False)
    np.testing.assert_allclose(result.x, regression.x, rtol=1e-7)
    assert {uri: pin.sha256 for uri, pin in result.provenance.sources.items()} == {
        weights: hashlib.sha256(files["weights.safetensors"]).hexdigest(),
        data: hashlib.sha256(files["data.safetensors"]).hexdigest(),
    }
    with pytest.raises(SourceNotAllowed, match="IHVP_SOURCE_BUCKETS"):
        client.register_model("prices-elsewhere", spec("s3://secrets/weights.safetensors", data))
