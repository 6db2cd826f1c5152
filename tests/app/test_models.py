"""Registering models and reading them back."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service, npy, problem, tensors


def test_registering_answers_201_with_the_layout_and_where_it_is(make_service: MakeService) -> None:
    service = make_service()
    response = service.http.post("/v1/models", json={"name": "line", **service.spec()})
    assert response.status_code == 201
    model = response.json()
    assert response.headers["location"] == "/v1/models/line/1" == model["links"]["self"]
    assert (model["name"], model["version"], model["reference"]) == ("line", 1, "line@1")
    assert (model["num_params"], model["num_points"]) == (3, 10)
    assert model["layout"] == [
        {"name": "weight", "offset": 0, "shape": [1, 2]},
        {"name": "bias", "offset": 2, "shape": [1]},
    ]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", model["digest"])
    assert model["spec"]["loss"]["type"] == "mse"
    assert service.http.get(response.headers["location"]).json() == model


def test_the_same_spec_again_answers_200_with_the_same_version(make_service: MakeService) -> None:
    service = make_service()
    first = service.register("twice")
    response = service.http.post("/v1/models", json={"name": "twice", **service.spec()})
    assert (response.status_code, response.json()) == (200, first)
    # Defaults written out are the same spec.
    written = service.spec(loss={"type": "mse"}, dtype="float32", parameters={"include": ["*"]})
    assert service.http.post("/v1/models", json={"name": "twice", **written}).json()["version"] == 1
    changed = service.http.post("/v1/models", json={"name": "twice", **service.spec(dtype="float64")})
    assert (changed.status_code, changed.json()["version"]) == (201, 2)


def test_latest_is_an_alias_and_jobs_record_what_it_meant(make_service: MakeService) -> None:
    service = make_service()
    service.register("grows")
    job = service.submit(model="grows@latest")
    second = service.register("grows", dtype="float64")
    assert service.http.get("/v1/models/grows/latest").json() == second
    assert [m["version"] for m in service.http.get("/v1/models/grows").json()["models"]] == [2, 1]
    assert service.http.get(f"/v1/jobs/{job['id']}").json()["model"]["reference"] == "grows@1"
    assert service.submit(model="grows")["model"]["reference"] == "grows@2"


def test_the_list_has_the_latest_version_of_each_name_in_pages(make_service: MakeService) -> None:
    service = make_service()
    for name in ("c", "a", "b"):
        service.register(name)
    service.register("a", dtype="float64")
    link, seen = "/v1/models?limit=2", []
    while link:
        page = service.http.get(link).json()
        seen += [m["reference"] for m in page["models"]]
        link = page["next"]
    assert seen == ["a@2", "b@1", "c@1"]


def test_the_built_in_architectures_register_with_torchs_names(service: Service) -> None:
    mlp = service.register(
        "mlp",
        architecture={"type": "mlp", "config": {"in_features": 2, "hidden": [4], "out_features": 3}},
        weights=service.put(
            tensors(
                **{
                    "0.weight": np.zeros((4, 2), np.float32),
                    "0.bias": np.zeros(4, np.float32),
                    "2.weight": np.zeros((3, 4), np.float32),
                    "2.bias": np.zeros(3, np.float32),
                }
            )
        ),
        loss="cross_entropy",
        data={
            "inputs": service.put(npy(np.zeros((6, 2), np.float32))),
            "targets": service.put(npy(np.zeros(6, np.int64))),
        },
    )
    assert mlp["num_params"] == 4 * 2 + 4 + 3 * 4 + 3
    assert [entry["name"] for entry in mlp["layout"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_plug_in_architecture_is_laid_out_as_its_weights_are(make_service: MakeService) -> None:
    service = make_service(architectures=("theirs",))
    model = service.register(
        "plugged",
        architecture={"type": "theirs", "config": {"whatever": [1, 2]}},
        weights=service.put(tensors(a=np.zeros((2, 3), np.float32), b=np.zeros(4, np.float32))),
    )
    assert model["num_params"] == 10


def test_one_blob_may_hold_inputs_and_targets(service: Service) -> None:
    both = service.put(tensors(inputs=np.zeros((4, 2), np.float32), targets=np.zeros((4, 1), np.float32)))
    assert service.register("both", data={"inputs": both, "targets": both})["num_points"] == 4
    named = service.put(tensors(x=np.zeros((5, 2), np.float32), y=np.zeros((5, 1), np.float32)))
    data = {"inputs": f"{named}#x", "targets": f"{named}#y"}
    assert service.register("named", data=data)["num_points"] == 5


def test_a_job_keeps_the_version_that_an_alias_stood_for(service: Service) -> None:
    service.register("named")
    service.register("named", dtype="float64")
    path = "/v1/models/named/aliases/champion"
    assert service.http.put(path, json={"version": 1}).json()["reference"] == "named@1"
    job = service.submit(model="named@champion")
    assert job["model"]["reference"] == "named@1"
    assert service.http.put(path, json={"version": 2}).json()["reference"] == "named@2"
    assert service.submit(model="named@champion")["model"]["reference"] == "named@2"
    assert service.http.get(f"/v1/jobs/{job['id']}").json()["model"]["reference"] == "named@1"
    assert service.http.get("/v1/models/named/champion").json()["version"] == 2
    assert service.http.get("/v1/models/named").json()["aliases"] == {"champion": 2}
    assert service.http.delete(path).status_code == 204
    problem(service.http.delete(path), 404, "model_not_found")
    problem(service.http.post("/v1/jobs", json=service.submission(model="named@champion")), 422, "unknown_model")


@pytest.mark.parametrize("alias", ["latest", "3", "Champion", "a" * 65])
def test_what_cannot_be_an_alias_is_refused(service: Service, alias: str) -> None:
    service.register("named")
    refused = problem(
        service.http.put(f"/v1/models/named/aliases/{alias}", json={"version": 1}), 422, "invalid_reference"
    )
    assert "not latest" in refused["allowed"]


def test_an_alias_needs_a_version_that_is_there(service: Service) -> None:
    service.register("named")
    problem(service.http.put("/v1/models/named/aliases/next", json={"version": 99}), 404, "model_not_found")
    assert service.http.put("/v1/models/named/aliases/next", json={"version": 1.0}).status_code == 200
    for body in ({}, {"version": 0}, {"version": "1"}, {"version": 1.5}, {"version": True}, {"version": 1, "more": 2}):
        assert service.http.put("/v1/models/named/aliases/next", json=body).status_code == 422
