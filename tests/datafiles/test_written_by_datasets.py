"""Folders and files that the package ``datasets`` itself has written, not our own idea of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ihvp.errors import InvalidTensor
from ihvp.references import TensorName
from tests.datafiles.samples import columns_of, files_of
from tests.datafiles.written_by_datasets.write import columns
from workers.resolvers.columns import map_column
from workers.resolvers.unpacking import Scratch

HERE = Path(__file__).parent / "written_by_datasets"
BLOB = "sha256:" + "0" * 64
WHOLE = list(range(30))


def column(path: Path, name: str, tmp_path: Path) -> Tensor:
    return map_column(files_of(path), TensorName(BLOB, name), "inputs", Scratch(tmp_path, keep_free=0))[:]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("shards", WHOLE),
        ("rows.parquet", WHOLE),
        ("shuffled", None),
        ("splits/train", WHOLE[:20]),
        ("splits/test", WHOLE[20:]),
    ],
)
def test_rows_in_their_order(name: str, rows: list[int] | None, tmp_path: Path) -> None:
    path = HERE / name
    numbers = column(path, "number", tmp_path).tolist()
    if rows is None:
        assert len(set(numbers)) == 10
        assert numbers != sorted(numbers), "they were shuffled"
    else:
        assert numbers == rows
    headers = {header.name: header for header in columns_of(path)}
    for column_name, array in columns().items():
        expected = torch.from_numpy(array[numbers])
        assert headers[column_name].shape == tuple(expected.shape)
        found = column(path, column_name, tmp_path)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    assert "text into token ids" in str(headers["text"].fault)


def test_a_folder_of_several_splits_is_refused_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidTensor, match="folder of one split"):
        column(HERE / "splits", "number", tmp_path)
