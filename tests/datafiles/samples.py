"""Data files of every format, each made by the library that people make them with."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from ihvp.datafiles.folders import table_names
from ihvp.datafiles.headers import read_columns, read_parts
from ihvp.tensors import TensorHeader

Array = np.ndarray[Any, Any]
ROWS = 200


def arrays() -> dict[str, Array]:
    """Columns of the kinds that models take."""
    generator = np.random.default_rng(0)
    return {
        "inputs": generator.standard_normal((ROWS, 6)).astype(np.float32),
        "targets": generator.integers(0, 3, ROWS),
        "weights": generator.random(ROWS),
        "input_ids": generator.integers(0, 50, (ROWS, 5), dtype=np.int32),
        "mask": generator.random((ROWS, 5)) > 0.3,
        "half": generator.standard_normal(ROWS).astype(np.float16),
        "small": generator.integers(0, 200, ROWS, dtype=np.uint8),
    }


def table(columns: dict[str, Array], *, fixed: bool = True) -> pa.Table:
    """The columns as a table: matrices as lists of one length, whether their type says so or not."""

    def column(array: Array) -> pa.Array:
        if array.ndim == 1:
            return pa.array(array)
        flat = pa.array(array.reshape(-1))
        if fixed:
            return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
        offsets = np.arange(0, array.size + 1, array.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), flat)

    return pa.table({name: column(array) for name, array in columns.items()})


def write_dataset(folder: Path, whole: pa.Table, *, parts: int = 2) -> Path:
    """A folder as ``datasets.Dataset.save_to_disk`` lays it out."""
    folder.mkdir()
    names = [f"data-{i:05d}-of-{parts:05d}.arrow" for i in range(parts)]
    rows = -(-whole.num_rows // parts)
    for i, name in enumerate(names):
        part = whole.slice(i * rows, rows)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part, max_chunksize=17)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _npz(write: Callable[..., None]) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / "data.npz"
        write(path, **arrays())
        return path

    return save


def _safetensors(folder: Path) -> Path:
    path = folder / "data.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays().items()}, path)
    return path


def _parquet(**options: Any) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / "data.parquet"
        pq.write_table(table(arrays(), fixed=options.pop("fixed", True)), path, row_group_size=64, **options)
        return path

    return save


def _arrow(folder: Path) -> Path:
    path = folder / "data.arrow"
    whole = table(arrays(), fixed=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=33)
    return path


def _feather(compression: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / "data.feather"
        feather.write_feather(table(arrays()), str(path), compression=compression, chunksize=70)
        return path

    return save


FORMATS: dict[str, Callable[[Path], Path]] = {
    "safetensors": _safetensors,
    "npz": _npz(np.savez),
    "npz deflated": _npz(np.savez_compressed),
    "parquet": _parquet(),
    "parquet of lists, zstd, no dictionary": _parquet(fixed=False, compression="zstd", use_dictionary=False),
    "arrow": _arrow,
    "feather": _feather("uncompressed"),
    "feather lz4": _feather("lz4"),
    "feather zstd": _feather("zstd"),
    "dataset": lambda folder: write_dataset(folder / "train", table(arrays(), fixed=False)),
}


def files_of(path: Path) -> list[Path]:
    """The file, or the tables of a folder, found as the service finds them."""
    if not path.is_dir():
        return [path]
    names = table_names([each.name for each in path.iterdir()], lambda name: (path / name).open("rb"))
    return [path / name for name in names]


def columns_of(path: Path) -> list[TensorHeader]:
    """What the API sees of it."""
    with ExitStack() as stack:
        opened = [stack.enter_context(each.open("rb")) for each in files_of(path)]
        return read_parts(opened) if path.is_dir() else read_columns(opened[0])
