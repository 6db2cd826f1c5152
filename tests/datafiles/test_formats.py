"""Every format's headers, as the API reads them, and its numbers, as a worker maps them, against what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ihvp.references import TensorName
from tests.datafiles.samples import FORMATS, arrays, columns_of, files_of
from workers.resolvers.columns import map_column
from workers.resolvers.unpacking import Scratch

BLOB = "sha256:" + "0" * 64


@pytest.fixture(scope="module", params=FORMATS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one of the formats, under a name that says nothing."""
    path = FORMATS[request.param](tmp_path_factory.mktemp("data"))
    return path.rename(path.with_name("blob"))


def test_headers_say_dtype_and_shape_of_every_column(file: Path) -> None:
    found = {header.name: (header.dtype, header.shape, header.fault) for header in columns_of(file)}
    assert found == {name: (str(array.dtype), array.shape, None) for name, array in arrays().items()}


def test_columns_hold_what_was_written(file: Path, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch", keep_free=0)
    for name, array in arrays().items():
        column = map_column(files_of(file), TensorName(BLOB, name), "inputs", scratch)
        assert tuple(column.shape) == array.shape
        expected = torch.from_numpy(array)
        assert column.dtype == expected.dtype
        assert torch.equal(column[0:7], expected[:7])
        assert torch.equal(column[:], expected)
        rows = torch.tensor([199, 3, 3, 0])
        assert torch.equal(column[rows], expected[rows])
    # What was unpacked had no name.
    assert not (tmp_path / "scratch").exists() or not list((tmp_path / "scratch").iterdir())


def test_a_reference_without_a_name_means_the_column_of_its_role(file: Path, tmp_path: Path) -> None:
    column = map_column(files_of(file), TensorName(BLOB), "targets", Scratch(tmp_path, keep_free=0))
    assert torch.equal(column[:], torch.from_numpy(arrays()["targets"]))


def test_an_npy_file_is_one_column(tmp_path: Path) -> None:
    path = tmp_path / "array"
    np.save(path, arrays()["inputs"])
    path = path.with_suffix(".npy")
    (header,) = columns_of(path)
    assert (header.dtype, header.shape) == ("float32", (200, 6))
    column = map_column(files_of(path), TensorName(BLOB), "inputs", Scratch(tmp_path))
    assert torch.equal(column[:], torch.from_numpy(arrays()["inputs"]))


def test_stored_members_of_an_npz_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.arange(1000.0))
    column = map_column(files_of(path), TensorName(BLOB), "inputs", Scratch(tmp_path / "none"))
    with path.open("r+b") as file:
        content = file.read()
        file.seek(content.index(np.float64(7.0).tobytes()))
        file.write(np.float64(-7.0).tobytes())
    assert float(column[7:8]) == -7.0
    assert not (tmp_path / "none").exists()
