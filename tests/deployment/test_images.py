"""The images: their size, what is in them and what is not."""

from __future__ import annotations

import json

import pytest

from scripts.containers.build import BuiltImage
from scripts.containers.engine import Engine

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


def test_they_are_no_larger_than_promised(images: list[BuiltImage]) -> None:
    assert {each.image.name: each.megabytes for each in images if not each.fits} == {}


def test_the_api_has_no_torch(engine: Engine, images: list[BuiltImage]) -> None:
    assert images[0].image.name.startswith("ihvp-api")
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)"
    engine.run("podman", "run", "--rm", "--entrypoint", "python", images[0].image.name, "-c", code)


def test_each_says_what_it_is_and_what_is_in_it(engine: Engine, images: list[BuiltImage]) -> None:
    for each in images:
        [found] = json.loads(engine.answer("podman", "image", "inspect", each.image.name))
        labels, config = found["Config"]["Labels"], found["Config"]
        assert config["User"] == "10001:10001"
        assert config["Entrypoint"] == ["tini", "--", "ihvp"]
        assert labels["org.opencontainers.image.version"] in each.image.name
        place = labels["ihvp.sbom"]
        sbom = json.loads(engine.answer("podman", "run", "--rm", "--entrypoint", "cat", each.image.name, place))
        names = {component["name"] for component in sbom["components"]}
        assert sbom["bomFormat"] == "CycloneDX"
        assert {"pydantic", "redis", "celery"} <= names
        assert ("torch" in names) == ("worker" in each.image.name)
