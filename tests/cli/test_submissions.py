"""``ihvp submit`` against a real API: what it sends, and what ``--dry-run`` shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.cli.main import app
from ihvp.cli.options import CURVATURES, METHODS, damping_of, rows_of, spec_fields
from ihvp.errors import InvalidInput, InvalidOption
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.methods import Curvature, InversionMethod
from ihvp.settings import Settings
from tests.app.driver import Service, running_api

Ihvp = Callable[..., Result]


@pytest.fixture
def service(valkey: Settings) -> Iterator[Service]:
    settings = valkey.model_copy(update={"log_level": "error"})
    with (
        running_api(settings) as url,
        httpx.Client(base_url=url, timeout=20) as http,
        closing(RedisJobStore.from_settings(settings)) as jobs,
    ):
        yield Service(settings, http, jobs, FilesystemBlobStore(settings.blob_dir))


@pytest.fixture
def ihvp(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ihvp:
    """Runs a command against the service, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [*arguments, "--url", str(service.http.base_url)])


@pytest.mark.parametrize(("listed", "names"), [(METHODS, InversionMethod), (CURVATURES, Curvature)])
def test_help_lists_every_name(listed: str, names: type[InversionMethod] | type[Curvature]) -> None:
    assert listed.rstrip(".").replace(" or ", ", ").split(", ") == [name.value for name in names]


def test_lambda_is_a_number_a_word_or_a_mapping_in_order() -> None:
    assert damping_of(None) is None
    assert damping_of(["1e-3"]) == 1e-3
    assert damping_of(["auto"]) == "auto"
    by_pattern = damping_of(["*=0.01", "2.*=0.1", "a=b=3"])
    assert by_pattern == {"*": 0.01, "2.*": 0.1, "a=b": 3.0}
    assert isinstance(by_pattern, dict)
    assert list(by_pattern) == ["*", "2.*", "a=b"]


def test_rows_are_numbers_ranges_or_a_file(tmp_path: Path) -> None:
    assert rows_of(None, "--rows") is None
    assert rows_of("3,7", "--rows") == [3, 7]
    assert rows_of("7, 2:5,7", "--rows") == [7, 2, 3, 4, 7]
    (tmp_path / "rows.npy").touch()
    for file in (str(tmp_path / "rows.npy"), "sha256:" + "0" * 64, "s3://bucket/rows.npy"):
        assert rows_of(file, "--rows") == file
    for wrong in ("three", "-1", "1:", ":3", "1:2:3", "", "missing.npy", "5:5", "9:3"):
        with pytest.raises(InvalidInput, match="--rows takes row numbers"):
            rows_of(wrong, "--rows")


def test_inputs_are_one_or_several_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.npy").touch()
    rest = dict.fromkeys(("weights", "architecture", "config", "loss", "dtype")) | {"targets": "y.npy"}

    def inputs(*given: str) -> Any:
        return spec_fields(inputs=list(given), **rest)["data"]["inputs"]

    assert inputs("x.npy") == Path("x.npy")
    assert inputs("a=b.npy") == Path("a=b.npy")
    assert inputs("https://host/x.npy?a=b") == "https://host/x.npy?a=b"
    assert inputs("ids=x.npy", "mask=s3://b/m.npy#m") == {"ids": Path("x.npy"), "mask": "s3://b/m.npy#m"}
    with pytest.raises(InvalidInput, match="by the names"):
        inputs("x.npy", "m.npy")


def test_a_submission_and_its_prediction(service: Service, ihvp: Ihvp, tmp_path: Path) -> None:
    model = service.register()["reference"]
    (tmp_path / "job.json").write_text(
        json.dumps({"model": model, "rhs": {"inline": [[1, 2, 3], [4, 5, 6]]}, "curvature": "ggn"})
    )
    given = ["submit", "job.json", "--method", "minres", "--lambda", "*=0.25", "--lambda", "bias=0.5"]

    shown = ihvp(*given, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.strip()}
    assert set(lines) >= {method.value for method in InversionMethod}
    assert "asked for" in lines["minres"]
    assert "default" in lines["minres"]
    assert "yes" in lines["cg"]
    assert "one λ for all parameters" in lines["nystrom"]
    assert "p = 3, n = 10, k = 2 · ggn, λ = *=0.25, bias=0.5" in shown.stdout
    document = json.loads(ihvp(*given, "--dry-run", "--json").stdout)
    assert [entry["method"] for entry in document["predictions"] if entry["asked"]] == ["minres"]
    assert service.jobs.queue_length() == 0

    job = json.loads(ihvp(*given, "--json").stdout)
    assert (job["curvature"], job["hessian_perturbation"]) == ("ggn", {"*": 0.25, "bias": 0.5})
    listed = ihvp("jobs").stdout
    assert "*=0.25, bias=0.5" in listed
    assert "ggn" in listed
    status = ihvp("status", job["id"]).stdout
    assert "minres, λ = *=0.25, bias=0.5" in status
    assert "ggn" in status


def test_a_dry_run_ends_as_the_refusal_of_a_submit(service: Service, ihvp: Ihvp) -> None:
    model = service.register()["reference"]
    digest = service.put(b"not a tensor")
    done = ihvp("submit", "-m", model, "--rhs", digest, "--method", "kfac", "--dry-run")
    assert isinstance(done.exception, InvalidOption)
    assert done.stdout == ""
