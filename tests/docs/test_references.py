"""docs/references.md: every form of a reference in it is registered and solved on, with the files where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.running_service import RunningService
from ihvp import errors
from tests.docs.test_documents import ROOT, programs
from tests.places import Places
from tests.sources.problem import Regression

TEXT = (ROOT / "docs/references.md").read_text(encoding="utf-8")


@pytest.mark.service
def test_every_form_does_what_the_document_says(service: RunningService, places: Places, tmp_path: Path) -> None:
    files = Regression.make().files
    (tmp_path / "models").mkdir()
    places.s3.create_bucket(Bucket="models")
    for name, data in files.items():
        (tmp_path / "models" / name).write_bytes(data)
        places.web.put(f"/{name}", data)
        places.s3.put_object(Bucket="models", Key=name, Body=data)
    places.hub.repositories["models/org/prices"] = files
    places.mlflow.register("prices", files)
    places.mlflow.client.set_registered_model_alias("prices", "champion", "1")
    text = TEXT.replace("https://data.example.org", places.web.url)
    for program in programs(text):
        printed = program.run(service, tmp_path)
        if program.language == "bash":
            assert re.findall(r"^(from-[\w-]+)@1  3 parameters, 30 training points$", printed, re.MULTILINE) == [
                "from-disk", "from-the-web", "from-s3", "from-a-hub", "from-mlflow",
            ]  # fmt: skip


def test_every_code_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `(source_\w+)` \|", TEXT, re.MULTILINE))
    assert listed == {errors.SourceUnavailable.code, errors.SourceTimeout.code, errors.SourceError.code} | {
        kind.code for kind in errors.SourceError.__subclasses__()
    }
