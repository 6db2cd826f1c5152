"""Files that lie, hold what is no number, or would fill memory: told apart, told clearly, and at no cost."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ihvp.errors import IhvpError, InvalidTensor, OutOfSpace
from ihvp.references import TensorName
from ihvp.tensors import select_tensor
from tests.datafiles.samples import FORMATS, columns_of, files_of, table, write_dataset
from workers.resolvers.columns import map_column
from workers.resolvers.unpacking import Scratch

BLOB = "sha256:" + "0" * 64


def api_says(path: Path, name: str | None = None) -> str:
    with pytest.raises(InvalidTensor) as caught:
        select_tensor(columns_of(path), name, "inputs")
    return str(caught.value)


def worker_says(path: Path, name: str | None = None, **bounds: int) -> str:
    with pytest.raises(InvalidTensor) as caught:
        map_column(files_of(path), TensorName(BLOB, name), "inputs", Scratch(path.parent, keep_free=0, **bounds))
    return str(caught.value)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def write(folder: Path, kind: str, **columns: Any) -> Path:
    whole = pa.table(columns)
    if kind == "dataset":
        return write_dataset(folder / "train", whole, parts=1)
    path = folder / "table"
    if kind == "parquet":
        pq.write_table(whole, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
            writer.write_table(whole)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow", "dataset"])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["a", "b"]), "It holds string, not numbers. Turn text into token ids"),
        (pa.array([1, 2], pa.timestamp("s")), "Cast the column to float64 or int64"),
        (pa.array([[[1]], [[2]]]), "flatten deeper ones"),
        (pa.array([{"a": 1}, {"a": 2}]), "Cast the column to a numeric type"),
        (pa.array([1.0, None]), "1 of its values are null. Fill or drop them"),
        (pa.array([[1.0], None]), "null"),
        (pa.array([[1.0, None], [2.0, 3.0]]), "1 of its values are null"),
        (pa.array([[1.0], [2.0, 3.0]]), "Its lists differ in length: 3 numbers in 2 rows. Pad them"),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_by_the_api_with_what_to_do(
    tmp_path: Path, kind: str, column: pa.Array, message: str
) -> None:
    path = write(tmp_path, kind, inputs=column, other=pa.array([1, 2]))
    assert message in api_says(path)
    assert message in worker_says(path)
    # The other column is none the worse for it.
    assert select_tensor(columns_of(path), "other", "inputs").shape == (2,)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_lists_that_differ_and_add_up_are_found_by_the_worker(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, inputs=pa.array([[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0, 8.0]]))
    assert select_tensor(columns_of(path), None, "inputs").shape == (4, 2)
    said = worker_says(path)
    assert "differ in length. Given: 1 numbers in row 2. Allowed: 2 in every row" in said
    assert "attention_mask" in said


def test_nulls_that_no_statistics_tell_of(tmp_path: Path) -> None:
    path = tmp_path / "table"
    pq.write_table(pa.table({"inputs": [1.0, 2.0, None]}), path, write_statistics=False)
    assert "holds a null. Given: row 2" in worker_says(path)


def test_an_unknown_column_lists_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet", x=pa.array([1]), y=pa.array([2]))
    for said in (api_says(path, "z"), worker_says(path, "z")):
        assert "no tensor or column 'z'. Given: x, y." in said


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_files_that_were_cut_short(tmp_path: Path, name: str, kept: float) -> None:
    whole = FORMATS[name](tmp_path)
    whole = next(whole.glob("data-*.arrow")) if whole.is_dir() else whole
    content = whole.read_bytes()
    path = written(tmp_path / "cut", content[: int(len(content) * kept)])
    api_says(path)
    worker_says(path)


def test_files_with_bytes_changed_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    generator = random.Random(0)
    for name in FORMATS:
        (tmp_path / name).mkdir()
        whole = FORMATS[name](tmp_path / name)
        whole = next(whole.glob("data-*.arrow")) if whole.is_dir() else whole
        content = whole.read_bytes()
        for _ in range(20):
            damaged = bytearray(content)
            # Headers and footers are where lies do harm.
            for _ in range(4):
                place = generator.choice([generator.randrange(min(600, len(content))), -generator.randrange(1, 600)])
                damaged[place] = generator.randrange(256)
            path = written(tmp_path / "damaged", bytes(damaged))
            for attempt in (
                lambda path=path: select_tensor(columns_of(path), "targets", "inputs"),
                lambda path=path: map_column(
                    files_of(path), TensorName(BLOB, "targets"), "", Scratch(tmp_path, 2**20, 0)
                ),
            ):
                with contextlib.suppress(InvalidTensor, OutOfSpace):
                    attempt()


class Harm:
    """Leaves a trace if it is ever unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("harmed"),))  # type: ignore[return-value]


def _checkpoint(path: Path) -> Path:
    import torch

    torch.save({"a": torch.ones(2)}, path)
    return path


def _objects(path: Path) -> Path:
    np.savez(path, inputs=np.array([Harm()], dtype=object))
    return path.with_suffix(".npz")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: written(path, pickle.dumps(Harm(), protocol=4)), "a pickle, which is never read"),
        (_checkpoint, "no array: it is no npz file"),
        (_objects, "Python objects is a pickle and is never read"),
        (
            lambda path: written(path, b"PAR1" + pickle.dumps(Harm()) + b"\x10\0\0\0PAR1"),
            "Parquet file cannot be read",
        ),
        (lambda path: written(path, b"ARROW1\0\0" + pickle.dumps(Harm())), "Arrow file cannot be read"),
        (lambda path: written(path, b"\x1f\x8b" + bytes(30)), "packed with gzip"),
        (lambda path: written(path, b"PK\x05\x06" + bytes(18)), "an empty archive"),
        (lambda path: written(path, b"a,b\n1,2\n" * 10), "neither npy nor safetensors"),
    ],
)
def test_pickles_and_others_in_disguise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "blob")
    assert message in api_says(path)
    assert message in worker_says(path)
    assert not (tmp_path / "harmed").exists()


def _bomb(path: Path, claimed: tuple[int, ...], zeros: int) -> Path:
    """A deflated array of zeros, which says of itself what it likes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": claimed})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("inputs.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(zeros // (8 * 2**17)):
            member.write(bytes(2**20))
    return path


def test_a_deflated_bomb_costs_no_memory_and_is_refused_by_its_size(tmp_path: Path) -> None:
    path = _bomb(tmp_path / "bomb", (2**23,), 2**26)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        assert select_tensor(columns_of(path), None, "inputs").shape == (2**23,)
        said = worker_says(path, max_bytes=2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "too large to be unpacked. Given: 67108864 bytes for float64 [8388608]. Allowed: at most 1048576" in said
    assert "IHVP_MAX_UNPACKED_BYTES" in said
    assert peak < 2**21


def test_a_bomb_whose_header_is_modest_is_no_array(tmp_path: Path) -> None:
    path = _bomb(tmp_path / "bomb", (10,), 2**24)
    for said in (api_says(path), worker_says(path)):
        assert "not as many bytes as its shape and dtype say" in said


def test_a_directory_that_claims_less_than_a_member_inflates_to(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, inputs=np.zeros(100_000))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 128 + 80)
    path.write_bytes(content)
    for said in (api_says(path), worker_says(path)):
        assert "npz file cannot be read" in said or "not as many bytes" in said


def test_a_parquet_footer_that_promises_more_rows_than_there_are(tmp_path: Path) -> None:
    path = tmp_path / "table"
    pq.write_table(pa.table({"inputs": np.arange(300.0)}), path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    # num_values and num_rows are written as zigzag varints: 300 is d8 04.
    footer = content.rindex(b"PAR1") - 4 - struct.unpack("<I", content[-8:-4])[0]
    changed = content[:footer] + content[footer:].replace(b"\xd8\x04", b"\xd8\x7f")
    written(path, changed)
    worker_says(path)


@pytest.mark.parametrize(
    "names", [["../data.arrow"], ["/etc/passwd"], [".."], [""], [7], [], ["a/b.arrow"], ["missing.arrow"]], ids=str
)
def test_a_dataset_folder_names_files_in_itself_and_no_others(tmp_path: Path, names: list[Any]) -> None:
    folder = write_dataset(tmp_path / "train", table({"inputs": np.arange(4.0)}), parts=1)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    with pytest.raises(InvalidTensor, match=r"holds no rows that are read here.*save_to_disk"):
        columns_of(folder)


@pytest.mark.parametrize("content", [None, b"not json", b"[]", b"{}", b'{"_data_files": 3}', b"[" * 100_000])
def test_a_folder_that_is_no_dataset(tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if content is not None:
        (folder / "state.json").write_bytes(content)
    with pytest.raises(InvalidTensor, match="save_to_disk"):
        columns_of(folder)


def test_a_folder_whose_files_differ(tmp_path: Path) -> None:
    for i, column in enumerate([[[1.0, 2.0]], [[1.0, 2.0, 3.0]]]):
        pq.write_table(pa.table({"inputs": column, "a" if i else "b": [1]}), tmp_path / f"{i}.parquet")
    assert "Pad them to one length" in api_says(tmp_path)
    faults = [header.fault for header in columns_of(tmp_path)]
    assert faults[1] == "The files of the folder differ in their columns."
    (tmp_path / "2.parquet").write_bytes(b"\x93NUMPY")
    assert "made of tables" in api_says(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = write(tmp_path, "parquet", inputs=pa.array([1.0]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(IhvpError, match=r"pip install 'ihvp\[data\]'") as caught:
        columns_of(path)
    assert caught.value.code == "invalid_tensor"
