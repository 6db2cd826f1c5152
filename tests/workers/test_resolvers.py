"""References become tensors, and every way in which they do not fit has its own code and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ihvp.blobs.store import BlobStore
from ihvp.errors import (
    BlobNotFound,
    DataMismatch,
    EmptyData,
    IhvpError,
    InvalidTensor,
    LossMismatch,
    NonFiniteRhs,
    NonFiniteWeights,
    RhsShapeMismatch,
    RowsMismatch,
    TargetsOutOfRange,
    UnknownParameters,
    WeightsMismatch,
)
from ihvp.jobs.submission import GradientOf, ResolvedRhs
from ihvp.models.spec import ModelSpec
from ihvp.references import TensorName
from tests.workers.problems import Example, put, put_npy, put_tensors
from workers.resolvers.columns import Column, map_column
from workers.resolvers.data import PointBatches, Rows
from workers.resolvers.model import LoadedModel, load_model
from workers.resolvers.rhs import resolve_rhs
from workers.resolvers.unpacking import Scratch

BUDGET = 2**28


@pytest.fixture
def example() -> Example:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    architecture = {
        "type": "mlp",
        "config": {"in_features": 4, "hidden": [3], "out_features": 2, "activation": "tanh"},
    }
    return Example(architecture, module, torch.randn(11, 4), torch.randint(0, 2, (11,)))


@pytest.fixture
def spec(blobs: BlobStore, example: Example) -> ModelSpec:
    return example.upload(blobs)


def load(blobs: BlobStore, spec: ModelSpec) -> LoadedModel:
    return load_model(blobs, spec, memory_budget=BUDGET)


def map_tensor(blobs: BlobStore, reference: str, role: str) -> Column:
    wanted = TensorName.parse(reference)
    return map_column([blobs.local_path(wanted.source)], wanted, role, Scratch())


def refused(blobs: BlobStore, spec: ModelSpec, error: type[IhvpError]) -> str:
    with pytest.raises(error) as caught:
        load(blobs, spec)
    return str(caught.value)


def with_data(spec: ModelSpec, blobs: BlobStore, x: torch.Tensor, y: torch.Tensor) -> ModelSpec:
    data = {"inputs": put_tensors(blobs, inputs=x), "targets": put_tensors(blobs, targets=y)}
    return ModelSpec.model_validate({**spec.model_dump(), "data": data})


class TestModel:
    def test_it_is_the_trained_module_in_evaluation_mode(self, blobs: BlobStore, example: Example) -> None:
        loaded = load(blobs, example.upload(blobs))
        assert loaded.problem.num_points == 11
        assert loaded.num_params == example.num_params == 23
        assert loaded.dtype == torch.float64
        expected = float(example.mean_loss(example.flat, example.x.double(), example.y))
        assert loaded.problem.mean_loss == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("batch_size", [1, 4, 11, 1000])
    def test_the_loss_does_not_depend_on_the_batch_size(
        self, blobs: BlobStore, example: Example, batch_size: int
    ) -> None:
        spec = example.upload(blobs)
        data = {**spec.data.model_dump(), "batch_size": batch_size}
        loaded = load(blobs, ModelSpec.model_validate({**spec.model_dump(), "data": data}))
        expected = float(example.mean_loss(example.flat, example.x.double(), example.y))
        assert loaded.problem.mean_loss == pytest.approx(expected, rel=1e-12)

    def test_half_precision_weights_and_data_are_raised_to_the_solves_dtype(
        self, blobs: BlobStore, example: Example
    ) -> None:
        spec = example.upload(blobs)
        weights = put_tensors(blobs, **{n: t.half() for n, t in example.module.state_dict().items()})
        spec = with_data(spec, blobs, example.x.bfloat16(), example.y.int())
        loaded = load(blobs, ModelSpec.model_validate({**spec.model_dump(), "weights": weights}))
        assert loaded.dtype == torch.float64
        assert {x.dtype for x, _ in loaded.problem} == {torch.float64}

    def test_included_parameters_alone_are_solved_for(self, blobs: BlobStore, example: Example) -> None:
        loaded = load(blobs, example.upload(blobs, parameters={"include": ["2.*"]}))
        assert loaded.layout == [("2.weight", (2, 3)), ("2.bias", (2,))]
        assert loaded.num_params == 8

    def test_a_pattern_that_matches_nothing_is_an_error(self, blobs: BlobStore, example: Example) -> None:
        assert "5.*" in refused(blobs, example.upload(blobs, parameters={"include": ["5.*"]}), UnknownParameters)

    def test_sequence_logits_are_scored_token_by_token(self, blobs: BlobStore) -> None:
        torch.manual_seed(0)
        config = {"vocabulary": 7, "context": 5, "width": 4, "heads": 2, "layers": 1}
        from ihvp.models.architectures import TransformerLmConfig
        from workers.architectures import build_built_in

        module = build_built_in(TransformerLmConfig(**config))
        ids, targets = torch.randint(0, 7, (6, 5)), torch.randint(0, 7, (6, 5))
        targets[0, :3] = -1
        example = Example({"type": "transformer-lm", "config": config}, module, ids, targets)
        loaded = load(blobs, example.upload(blobs, loss={"type": "cross_entropy", "ignore_index": -1}))
        with torch.no_grad():
            logits = module.double()(ids).reshape(-1, 7)
        expected = nn.functional.cross_entropy(logits, targets.reshape(-1), ignore_index=-1)
        assert loaded.problem.mean_loss == pytest.approx(float(expected), rel=1e-12)
        # The solver knows the parameters by the caller's names, so that λ can be given by them.
        assert loaded.problem.snapshot.names == tuple(name for name, _ in loaded.layout)
        b = torch.ones(loaded.num_params, dtype=loaded.dtype)
        info = loaded.problem.solve("cg", b, hessian_perturbation={"*": 3.0, "blocks.*": 4.0}, maxiter=1).info
        assert info["hessian_perturbation"] == {"*": 3.0, "blocks.*": 4.0}

    def test_batches_can_be_asked_for_one_by_one(self, example: Example) -> None:
        rows = Rows({"inputs": example.x}, example.y)
        batches = PointBatches(rows, batch_size=4, dtype=torch.float64, classes=True)
        for index, (x, y, _) in enumerate(batches):
            again = batches[index][0]
            assert isinstance(x, torch.Tensor)
            assert isinstance(again, torch.Tensor)
            assert torch.equal(again, x)
            assert torch.equal(batches[index][1], y)
        with pytest.raises(IndexError):
            batches[len(batches)]

    @pytest.mark.parametrize(
        ("loss", "reference"),
        [("mse", nn.MSELoss()), ("bce_with_logits", nn.BCEWithLogitsLoss())],
    )
    def test_losses_over_values_average_over_points(
        self, blobs: BlobStore, example: Example, spec: ModelSpec, loss: str, reference: nn.Module
    ) -> None:
        y = torch.rand(11, 2)
        spec = with_data(spec, blobs, example.x, y)
        loaded = load(blobs, ModelSpec.model_validate({**spec.model_dump(), "loss": loss}))
        with torch.no_grad():
            expected = float(reference(example.module.double()(example.x.double()), y.double()))
        assert loaded.problem.mean_loss == pytest.approx(expected, rel=1e-12)


class TestWeights:
    def change(self, blobs: BlobStore, example: Example, spec: ModelSpec, **tensors: Any) -> ModelSpec:
        state = {**example.module.state_dict(), **tensors}
        weights = put_tensors(blobs, **{name: t for name, t in state.items() if t is not None})
        return ModelSpec.model_validate({**spec.model_dump(), "weights": weights})

    def test_the_first_faults_are_listed(self, blobs: BlobStore, example: Example, spec: ModelSpec) -> None:
        changed = self.change(
            blobs, example, spec, **{"0.bias": None, "2.weight": torch.zeros(2, 9), "extra": torch.zeros(1)}
        )
        message = refused(blobs, changed, WeightsMismatch)
        assert "0.bias is missing" in message
        assert "2.weight has shape [2, 9] instead of [2, 3]" in message
        assert "extra is no parameter" in message

    def test_numbers_that_are_not_finite_are_refused(
        self, blobs: BlobStore, example: Example, spec: ModelSpec
    ) -> None:
        bad = self.change(blobs, example, spec, **{"0.bias": torch.tensor([0.0, float("nan"), 1.0])})
        assert "0.bias" in refused(blobs, bad, NonFiniteWeights)

    def test_integers_are_no_weights(self, blobs: BlobStore, example: Example, spec: ModelSpec) -> None:
        bad = self.change(blobs, example, spec, **{"0.bias": torch.tensor([0, 1, 2])})
        assert "torch.int64" in refused(blobs, bad, WeightsMismatch)

    def test_a_config_that_asks_for_huge_tensors_allocates_nothing(self, blobs: BlobStore, spec: ModelSpec) -> None:
        huge = {"in_features": 10**9, "hidden": [10**9], "out_features": 2, "activation": "tanh"}
        spec = ModelSpec.model_validate({**spec.model_dump(), "architecture": {"type": "mlp", "config": huge}})
        refused(blobs, spec, WeightsMismatch)

    def test_bytes_that_are_no_tensors(self, blobs: BlobStore, spec: ModelSpec) -> None:
        junk = ModelSpec.model_validate({**spec.model_dump(), "weights": put(blobs, b"\x80\x04 a pickle")})
        refused(blobs, junk, InvalidTensor)

    def test_a_blob_that_is_gone(self, blobs: BlobStore, spec: ModelSpec) -> None:
        gone = ModelSpec.model_validate({**spec.model_dump(), "weights": "sha256:" + "0" * 64})
        refused(blobs, gone, BlobNotFound)


class TestData:
    @pytest.mark.parametrize(
        ("x", "y", "error", "said"),
        [
            (torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), RowsMismatch, "[3, 4], targets [2]"),
            (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), EmptyData, "no data points"),
            (torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64), DataMismatch, "[n, 4]"),
            (torch.zeros(3, 4).int(), torch.zeros(3, dtype=torch.int64), DataMismatch, "floating-point"),
            (torch.zeros(3, 4), torch.tensor([0, 1, 2]), TargetsOutOfRange, "2 in row 2"),
            (torch.zeros(3, 4), torch.tensor([0, -100, 1]), TargetsOutOfRange, "-100 in row 1"),
            (torch.zeros(3, 4), torch.zeros(3), LossMismatch, "class indices"),
            (torch.zeros(3, 4), torch.zeros(3, 2, dtype=torch.int64), LossMismatch, "targets"),
        ],
        ids=["rows", "empty", "width", "integers", "class", "ignored", "float-targets", "wide-targets"],
    )
    def test_points_that_do_not_fit(
        self,
        blobs: BlobStore,
        spec: ModelSpec,
        x: torch.Tensor,
        y: torch.Tensor,
        error: type[IhvpError],
        said: str,
    ) -> None:
        assert said in refused(blobs, with_data(spec, blobs, x, y), error)

    def test_targets_that_would_broadcast_are_refused(
        self, blobs: BlobStore, example: Example, spec: ModelSpec
    ) -> None:
        spec = with_data(spec, blobs, example.x, torch.zeros(11))
        refused(blobs, ModelSpec.model_validate({**spec.model_dump(), "loss": "mse"}), LossMismatch)

    def test_a_probability_lies_between_0_and_1(self, blobs: BlobStore, example: Example, spec: ModelSpec) -> None:
        y = torch.zeros(11, 2)
        y[3, 1] = 1.5
        spec = with_data(spec, blobs, example.x, y)
        spec = ModelSpec.model_validate({**spec.model_dump(), "loss": "bce_with_logits"})
        assert "1.5 in row 3, place [1]" in refused(blobs, spec, TargetsOutOfRange)

    def test_smoothing_needs_classes(self, blobs: BlobStore, spec: ModelSpec) -> None:
        bad = {**spec.model_dump(), "loss": {"type": "mse", "label_smoothing": 0.1}}
        assert "Only cross_entropy" in refused(blobs, ModelSpec.model_validate(bad), LossMismatch)

    def test_a_token_outside_the_vocabulary(self, blobs: BlobStore) -> None:
        from ihvp.models.architectures import TransformerLmConfig
        from workers.architectures import build_built_in

        config = {"vocabulary": 7, "context": 5, "width": 4, "heads": 2, "layers": 1}
        module = build_built_in(TransformerLmConfig(**config))
        architecture = {"type": "transformer-lm", "config": config}
        ids = torch.zeros(3, 5, dtype=torch.int64)
        stray = ids.clone()
        stray[1, 2] = 7
        spec = Example(architecture, module, stray, ids).upload(blobs)
        assert "7 in row 1, place [2]" in refused(blobs, spec, DataMismatch)
        long = torch.zeros(3, 6, dtype=torch.int64)
        assert "at most 5" in refused(blobs, Example(architecture, module, long, long).upload(blobs), DataMismatch)

    def test_npy_data_serves_as_well(
        self, blobs: BlobStore, example: Example, spec: ModelSpec, tmp_path: Path
    ) -> None:
        data = {
            "inputs": put_npy(blobs, tmp_path, example.x.numpy()),
            "targets": put_npy(blobs, tmp_path, example.y.numpy().astype(np.uint8)),
        }
        loaded = load(blobs, ModelSpec.model_validate({**spec.model_dump(), "data": data}))
        assert loaded.problem.mean_loss == pytest.approx(load(blobs, spec).problem.mean_loss, rel=1e-12)


class TestMapping:
    def test_writing_to_a_mapping_leaves_the_blob_alone(self, blobs: BlobStore, tmp_path: Path) -> None:
        for digest in (
            put_npy(blobs, tmp_path, np.ones(5)),
            put_tensors(blobs, inputs=torch.ones(5)),
        ):
            map_tensor(blobs, digest, "inputs")[:].zero_()
            assert bool((map_tensor(blobs, digest, "inputs")[:] == 1).all())

    def test_an_unnamed_reference_takes_the_name_that_the_place_asks_for(self, blobs: BlobStore) -> None:
        digest = put_tensors(blobs, a=torch.ones(2), b=torch.zeros(2))
        assert bool((map_tensor(blobs, digest, "b")[:] == 0).all())
        with pytest.raises(InvalidTensor, match=r"no tensor 'inputs'.*Allowed: a, b"):
            map_tensor(blobs, digest, "inputs")

    def test_an_array_of_objects_is_never_unpickled(self, blobs: BlobStore, tmp_path: Path) -> None:
        path = tmp_path / "objects.npy"
        np.save(path, np.array([object], dtype=object), allow_pickle=True)
        with pytest.raises(InvalidTensor, match=r"[Oo]bject"):
            map_tensor(blobs, put(blobs, path.read_bytes()), "inputs")

    @pytest.mark.parametrize("cut", [3, 9, 40, 100])
    def test_a_file_that_was_cut_short(self, blobs: BlobStore, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "whole.npy"
        np.save(path, np.ones(50))
        whole = [path.read_bytes(), blobs.local_path(put_tensors(blobs, inputs=torch.ones(50))).read_bytes()]
        for content in whole:
            with pytest.raises(InvalidTensor):
                map_tensor(blobs, put(blobs, content[:cut]), "inputs")


class TestRhs:
    @pytest.fixture
    def model(self, blobs: BlobStore, spec: ModelSpec) -> LoadedModel:
        return load(blobs, spec)

    @pytest.mark.parametrize("shape", [[23], [1, 23], [3, 23]])
    def test_a_tensor_of_rows(self, blobs: BlobStore, model: LoadedModel, shape: list[int]) -> None:
        b = torch.randn(shape)
        found = resolve_rhs(blobs, ResolvedRhs(blob=put_tensors(blobs, b=b), shape=shape), model)
        torch.testing.assert_close(found, b.double())

    @pytest.mark.parametrize("lead", [[], [3]])
    def test_one_tensor_a_parameter_is_joined_in_the_layouts_order(
        self, blobs: BlobStore, model: LoadedModel, lead: list[int]
    ) -> None:
        b = torch.randn(*lead, 23)
        parts = {
            "2.bias": b[..., 21:],
            "0.weight": b[..., :12].reshape(*lead, 3, 4),
            "2.weight": b[..., 15:21].reshape(*lead, 2, 3),
            "0.bias": b[..., 12:15],
        }
        rhs = ResolvedRhs(blob=put_tensors(blobs, **parts), shape=[*lead, 23])
        torch.testing.assert_close(resolve_rhs(blobs, rhs, model), b.double())

    def test_a_parameter_that_is_missing_is_named(self, blobs: BlobStore, model: LoadedModel) -> None:
        blob = put_tensors(blobs, **{"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3)})
        with pytest.raises(RhsShapeMismatch, match=r"2\.weight is missing; 2\.bias is missing"):
            resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=[23]), model)

    def test_parameters_of_different_numbers_of_rows(self, blobs: BlobStore, model: LoadedModel) -> None:
        blob = put_tensors(
            blobs,
            **{
                "0.weight": torch.zeros(2, 3, 4),
                "0.bias": torch.zeros(2, 3),
                "2.weight": torch.zeros(4, 2, 3),
                "2.bias": torch.zeros(2, 2),
            },
        )
        with pytest.raises(RhsShapeMismatch, match="same leading k"):
            resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=[2, 23]), model)

    def test_a_wrong_length_says_what_p_is(self, blobs: BlobStore, model: LoadedModel) -> None:
        blob = put_tensors(blobs, b=torch.zeros(22))
        with pytest.raises(RhsShapeMismatch, match="23 parameters"):
            resolve_rhs(blobs, ResolvedRhs(blob=blob, shape=[22]), model)

    def test_a_number_that_is_not_finite_is_located(self, blobs: BlobStore, model: LoadedModel) -> None:
        b = torch.zeros(2, 23)
        b[1, 4] = float("inf")
        with pytest.raises(NonFiniteRhs, match=r"inf at \[1, 4\]"):
            resolve_rhs(blobs, ResolvedRhs(blob=put_tensors(blobs, b=b), shape=[2, 23]), model)

    def test_gradients_of_single_points(self, blobs: BlobStore, example: Example, model: LoadedModel) -> None:
        x, y = example.x[:4], example.y[:4]
        points = GradientOf(inputs=put_tensors(blobs, inputs=x), targets=put_tensors(blobs, targets=y))
        found = resolve_rhs(blobs, ResolvedRhs(gradient_of=points, shape=[4, 23]), model)
        torch.testing.assert_close(found, example.gradients(x, y))

    def test_points_to_differentiate_are_checked_like_training_data(
        self, blobs: BlobStore, model: LoadedModel
    ) -> None:
        points = GradientOf(
            inputs=put_tensors(blobs, inputs=torch.zeros(2, 4)),
            targets=put_tensors(blobs, targets=torch.tensor([0, 5])),
        )
        with pytest.raises(TargetsOutOfRange, match="5 in row 1"):
            resolve_rhs(blobs, ResolvedRhs(gradient_of=points, shape=[2, 23]), model)
