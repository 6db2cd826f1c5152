"""Writes the files of this folder: see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

ROWS = 30


def columns() -> dict[str, np.ndarray[Any, Any]]:
    """The columns of numbers, as they are drawn."""
    generator = np.random.default_rng(0)
    return {
        "number": np.arange(ROWS),
        "inputs": generator.normal(size=(ROWS, 3)).astype(np.float32),
        "targets": np.arange(ROWS) % 3,
        "input_ids": generator.integers(0, 50, (ROWS, 5), dtype=np.int32),
    }


def main() -> None:
    """Writes them."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value  # type: ignore[import-not-found]

    features = Features(
        {
            "number": Value("int64"),
            "inputs": List(Value("float32"), length=3),
            "targets": ClassLabel(names=["a", "b", "c"]),
            "input_ids": List(Value("int32")),
            "text": Value("string"),
        }
    )
    rows = {name: array.tolist() for name, array in columns().items()}
    whole = Dataset.from_dict({**rows, "text": [f"row {i}" for i in range(ROWS)]}, features=features)
    here = Path(__file__).parent
    whole.save_to_disk(here / "shards", num_shards=3)
    whole.shuffle(seed=0).select(range(10)).save_to_disk(here / "shuffled")
    DatasetDict({"train": whole.select(range(20)), "test": whole.select(range(20, ROWS))}).save_to_disk(
        here / "splits"
    )
    whole.to_parquet(here / "rows.parquet")


if __name__ == "__main__":
    main()
