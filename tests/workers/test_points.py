"""Data specs made real: an index, sample weights, inputs by name, and every format, against torch on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from ihvp.blobs.store import BlobStore
from ihvp.errors import (
    DataMismatch,
    EmptyData,
    IhvpError,
    InvalidIndex,
    InvalidSampleWeights,
    RowsMismatch,
    TargetsOutOfRange,
)
from ihvp.jobs.submission import GradientOf
from ihvp.models.spec import LossSpec, ModelSpec
from ihvp.tensors import npy_header
from solvers.batch import Batch
from tests.workers.problems import Example, put, put_tensors
from workers.resolvers.model import LoadedModel, load_model
from workers.resolvers.points import PointFiles
from workers.resolvers.unpacking import Scratch

N = 40
LOSSES = nn.CrossEntropyLoss(reduction="none")


@pytest.fixture
def example() -> Example:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    config = {"in_features": 4, "hidden": [3], "out_features": 2, "activation": "tanh"}
    return Example({"type": "mlp", "config": config}, module, torch.randn(N, 4), torch.randint(0, 2, (N,)))


def with_data(blobs: BlobStore, example: Example, **changes: Any) -> ModelSpec:
    spec = example.upload(blobs)
    data = {**spec.data.model_dump(), "batch_size": 7, **changes}
    return ModelSpec.model_validate({**spec.model_dump(), "data": data})


def load(blobs: BlobStore, spec: ModelSpec, scratch: Scratch | None = None) -> LoadedModel:
    return load_model(blobs, spec, memory_budget=2**28, scratch=scratch)


def mean_loss(example: Example, rows: Any = slice(None), w: torch.Tensor | None = None) -> float:
    with torch.no_grad():
        losses = LOSSES(example.module.double()(example.x[rows].double()), example.y[rows])
        w = torch.ones(len(losses), dtype=torch.float64) if w is None else w
        return float((w * losses).sum() / w.sum())


def test_an_index_chooses_rows_in_its_order_and_twice_is_two_points(blobs: BlobStore, example: Example) -> None:
    chosen = [5, 5, 0, 39, 7, 12, 12, 12, 1]
    expected = mean_loss(example, chosen)
    as_list = with_data(blobs, example, index=chosen)
    as_file = with_data(blobs, example, index=put_tensors(blobs, index=torch.tensor(chosen, dtype=torch.int32)))
    for spec in (as_list, as_file):
        loaded = load(blobs, spec)
        assert loaded.problem.num_points == len(chosen)
        assert loaded.problem.mean_loss == pytest.approx(expected, rel=1e-12)
        x = torch.cat([batch[0] for batch in loaded.problem])
        assert torch.equal(x, example.x[chosen].double())


def test_sample_weights_and_an_index_go_together(blobs: BlobStore, example: Example) -> None:
    w = torch.rand(N, dtype=torch.float64)
    chosen = [3, 1, 30, 2]
    spec = with_data(blobs, example, weights=put_tensors(blobs, weights=w), index=chosen)
    assert load(blobs, spec).problem.mean_loss == pytest.approx(mean_loss(example, chosen, w[chosen]), rel=1e-12)
    whole = with_data(blobs, example, weights=put_tensors(blobs, weights=torch.arange(N)))
    expected = mean_loss(example, w=torch.arange(N, dtype=torch.float64))
    assert load(blobs, whole).problem.mean_loss == pytest.approx(expected, rel=1e-12)


def test_a_held_out_part_of_the_same_file(blobs: BlobStore, example: Example) -> None:
    spec = with_data(blobs, example, index=list(range(30)))
    loaded = load(blobs, spec)
    held_out = GradientOf(inputs=spec.data.inputs, targets=spec.data.targets, index=[33, 31])
    torch.testing.assert_close(
        loaded.gradients(blobs, held_out), example.gradients(example.x[[33, 31]], example.y[[33, 31]])
    )


def test_rows_that_the_index_leaves_out_may_hold_anything(blobs: BlobStore, example: Example) -> None:
    y = example.y.clone()
    y[20:] = -1
    targets = put_tensors(blobs, targets=y)
    load(blobs, with_data(blobs, example, targets=targets, index=list(range(20))))
    with pytest.raises(TargetsOutOfRange, match="Given: -1 in row 25"):
        load(blobs, with_data(blobs, example, targets=targets, index=[3, 25]))


@pytest.mark.parametrize("kind", ["npz", "npz deflated", "parquet"])
def test_a_model_on_each_format_is_the_model_on_safetensors(
    blobs: BlobStore, example: Example, kind: str, tmp_path: Path
) -> None:
    x, y = example.x.numpy(), example.y.numpy()
    path = tmp_path / "data.npz"
    if kind == "parquet":
        rows = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 4)
        pq.write_table(pa.table({"inputs": rows, "label": y, "targets": y * 0, "text": ["a"] * N}), path)
    elif kind == "npz":
        np.savez(path, inputs=x, label=y, targets=y * 0)
    else:
        np.savez_compressed(path, inputs=x, label=y, targets=y * 0)
    digest = put(blobs, path.read_bytes())
    spec = with_data(blobs, example, inputs=digest, targets=f"{digest}#label", index=[8, 2, 3])
    loaded = load(blobs, spec, Scratch(tmp_path / "scratch", keep_free=0))
    assert loaded.problem.mean_loss == pytest.approx(mean_loss(example, [8, 2, 3]), rel=1e-12)
    b = torch.randn(loaded.num_params, dtype=torch.float64)
    expected = load(blobs, with_data(blobs, example, index=[8, 2, 3]))
    solutions = [m.problem.solve("direct", b, hessian_perturbation=1.0).x for m in (loaded, expected)]
    assert torch.equal(*solutions)


def test_inputs_by_name_come_as_a_dict(blobs: BlobStore, example: Example) -> None:
    ids, mask = torch.randint(0, 9, (N, 5), dtype=torch.int32), torch.rand(N, 5) > 0.5
    data = put_tensors(blobs, input_ids=ids, attention_mask=mask)
    spec = with_data(
        blobs, example, inputs={"input_ids": f"{data}#input_ids", "attention_mask": data}, index=[1, 30, 2]
    )
    batches = PointFiles(blobs).batches(spec.data, batch_size=2, dtype=torch.float64, loss=spec.loss)
    first = batches[0]
    assert isinstance(first, Batch)
    assert isinstance(first.x, dict)
    assert torch.equal(first.x["input_ids"], ids[[1, 30]].long())
    assert torch.equal(first.x["attention_mask"], mask[[1, 30]].long())
    with pytest.raises(
        DataMismatch, match=r"one tensor of inputs, not several by name\. Given: input_ids, attention_m"
    ):
        load(blobs, spec)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"index": [0, 40]}, InvalidIndex, "row 40 at place 1. Allowed: 0 to 39"),
        ({"index": torch.tensor([0, -1])}, InvalidIndex, "row -1 at place 1"),
        ({"index": torch.tensor([0.0])}, InvalidIndex, "whole numbers"),
        ({"index": torch.tensor([True])}, InvalidIndex, "whole numbers"),
        ({"index": torch.tensor([[0]])}, InvalidIndex, "whole numbers"),
        ({"index": torch.tensor([], dtype=torch.int64)}, EmptyData, "names no row"),
        ({"weights": torch.ones(N - 1)}, RowsMismatch, r"weights \[39\]"),
        ({"weights": torch.ones(N, 1)}, InvalidSampleWeights, "one number a row"),
        ({"weights": torch.ones(N, dtype=torch.bool)}, InvalidSampleWeights, "one number a row"),
        ({"weights": torch.linspace(-1, 1, N)}, InvalidSampleWeights, "negative or not finite. Given: -1 in row 0"),
        ({"weights": torch.full((N,), torch.nan)}, InvalidSampleWeights, "nan in row 0"),
        ({"weights": torch.zeros(N)}, InvalidSampleWeights, "All sample weights are zero"),
        ({"targets": torch.zeros(N - 1, dtype=torch.int64)}, RowsMismatch, r"inputs \[40, 4\], targets \[39\]"),
    ],
)
def test_what_does_not_fit(
    blobs: BlobStore, example: Example, changes: dict[str, Any], error: type[IhvpError], message: str
) -> None:
    fields = {
        name: put_tensors(blobs, **{name: value}) if isinstance(value, torch.Tensor) else value
        for name, value in changes.items()
    }
    with pytest.raises(error, match=message):
        load(blobs, with_data(blobs, example, **fields))


def test_a_batch_reads_its_own_rows_and_no_others(blobs: BlobStore) -> None:
    """A file far larger than what is used of it: a mapping that read it whole would show in the process."""
    rows, width = 2**14, 2**10
    with blobs.writer() as writer:
        writer.write(npy_header("float64", (rows, width)))
        for _ in range(rows * width * 8 >> 20):
            writer.write(bytes(1 << 20))
        large = writer.commit().digest
    spec = GradientOf(inputs=large, targets=put_tensors(blobs, targets=torch.zeros(rows)), index=[0, 9, rows - 1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = peak()
    batches = PointFiles(blobs).batches(spec, batch_size=2, dtype=torch.float64, loss=LossSpec(type="mse"))
    assert [batch.points for batch in batches] == [2, 1]
    assert peak() - before < 16 * 1024


def peak() -> int:
    """The most memory that this process has held, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])
