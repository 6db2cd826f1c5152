"""A model spec made real: module, weights, loss and data as one problem that solvers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ihvp.errors import DataMismatch
from ihvp.exports import require_exports
from ihvp.jobs.submission import GradientOf
from ihvp.methods import Curvature
from ihvp.models.architectures import TransformerLmConfig
from ihvp.models.spec import LossSpec, ModelSpec
from ihvp.sources.pin import SourcePin
from solvers import Problem, TorchTwiceDifferentiable, loss_gradients
from solvers.batch import described, moved
from solvers.factors import FactorStore
from workers.device import solving_device
from workers.resolvers.data import PointBatches
from workers.resolvers.data_checks import check_targets
from workers.resolvers.exported import ExportedModule
from workers.resolvers.files import FileAccess, Files
from workers.resolvers.loss_check import check_loss
from workers.resolvers.losses import build_loss, check_outputs, classes_come_last, classes_second
from workers.resolvers.modules import TrainedModule, trained_module
from workers.resolvers.points import PointFiles
from workers.resolvers.unpacking import Scratch
from workers.resolvers.weights import freeze_others

__all__ = ["LoadedModel", "load_model"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class LoadedModel:
    """A problem, and what is needed to make right-hand sides for it.

    Attributes:
        problem: Model, loss and training data, with the Hessian as H; keeps what one solve can leave to the next.
        layout: Names and shapes of the parameters in the order of the flat vectors.
        loss_check: Loss and gradient at the first training points: whether it is trained.
        files: What it was loaded from: kept with it, so that no cache drops what is mapped.
    """

    problem: Problem
    layout: list[tuple[str, tuple[int, ...]]]
    loss_check: dict[str, Any]
    files: FileAccess
    _trained: TrainedModule
    _loss: LossSpec
    _num_classes: int | None
    _scratch: Scratch

    def problem_for(self, curvature: Curvature) -> Problem:
        """The problem with this curvature as H; what it keeps stays for the next time.

        Raises:
            LossMismatch: The loss has no such curvature.
        """
        return self.problem.with_curvature(curvature)

    @property
    def nbytes(self) -> int:
        """Bytes held now: parameters, and for all curvatures together data, products that are kept, and factors."""
        # Those that are solved for are there twice: in the module, and as they were when the problem was made.
        module = sum(part.nbytes for part in self._trained.module.parameters())
        return self.problem.nbytes + module + self.num_params * self.dtype.itemsize

    @property
    def num_params(self) -> int:
        """The length p of a flat vector."""
        return self.problem.num_params

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters, data and solutions."""
        return self.problem.dtype

    @property
    def sources(self) -> dict[str, SourcePin]:
        """The files outside the blob store that it was loaded from, with the digests of their bytes."""
        return self.files.fetched() if isinstance(self.files, Files) else {}

    def gradients(self, files: FileAccess, points: GradientOf) -> Tensor:
        """The gradients ``[k, p]`` of the loss at the points that are referred to.

        Raises:
            InvalidInput: The points do not fit the model or its loss.
        """
        batches = PointFiles(files, self._scratch).batches(
            points,
            batch_size=1024,
            dtype=self.dtype,
            loss=self._loss,
            next_tokens=self._trained.predicts_next_tokens,
        )
        self._trained.check(batches, self._loss, self._num_classes)
        # In main memory like every other right-hand side: those of several jobs are put into one block.
        return loss_gradients(self.problem.model, batches).cpu()


def load_model(
    files: FileAccess,
    spec: ModelSpec,
    *,
    memory_budget: int,
    factor_store: FactorStore | None = None,
    device: str = "cpu",
    allow_exports: bool = False,
    scratch: Scratch | None = None,
    room: int | None = None,
) -> LoadedModel:
    """Loads what a spec refers to.

    Args:
        files: Where weights and data are.
        spec: The model.
        memory_budget: Bytes that the problem may keep.
        factor_store: Where its factors outlive this process, if anywhere.
        device: Where to solve: see ``Settings.device``. The data stay in main memory, and go there in chunks.
        allow_exports: Whether the model may be an exported program.
        scratch: Where data that are packed in their file are unpacked to; the folder of temporary files by default.
        room: Bytes of memory that it may take: weights that need more are refused before they are read.

    Raises:
        SetupError: There is no such device.
        InvalidInput: Architecture, weights, parameters, data or loss do not fit together; the codes are
            those that the API gives.
        BlobNotFound: A blob is gone.
        ModelTooLarge: The weights alone need more memory than there may be.
    """
    dtype = DTYPES[spec.dtype]
    place = solving_device(device)
    if spec.exported is not None:
        require_exports(allow_exports)
    trained = trained_module(files, spec, dtype, room)
    module = trained.module.to(place)
    layout = freeze_others(module, spec.parameters.include)
    points = PointFiles(files, scratch or Scratch())
    loss_spec = trained.loss(spec, whole_targets=points.has_whole_targets(spec.data))
    loss = build_loss(loss_spec).to(place)
    batches = points.batches(
        spec.data,
        batch_size=spec.data.batch_size,
        dtype=dtype,
        loss=loss_spec,
        next_tokens=trained.predicts_next_tokens,
    )
    trained.check(batches, loss_spec, None)
    trained.answer_for(loss_spec, batches)
    outputs, targets = _try_out(module, batches, place)
    check_outputs(loss_spec, outputs)
    if isinstance(module, ExportedModule):
        module.check_points_apart(moved(batches.points(0, 2), place).x)
    sequences = isinstance(trained.built_in, TransformerLmConfig) and loss_spec.type == "cross_entropy"
    if sequences or classes_come_last(loss_spec, outputs, targets):
        module, outputs = classes_second(module), torch.movedim(outputs, -1, 1)
    num_classes = outputs.shape[1] if loss_spec.type == "cross_entropy" and outputs.ndim > 1 else None
    check_targets(batches, loss_spec, num_classes)
    model = TorchTwiceDifferentiable(module, loss)
    problem = Problem(model, batches, memory_budget=memory_budget, factor_store=factor_store)
    checked = check_loss(problem, batches, loss_spec, num_classes)
    return LoadedModel(problem, layout, checked, files, trained, loss_spec, num_classes, points.scratch)


def _try_out(module: nn.Module, batches: PointBatches, device: torch.device) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the first points, which show whether the model takes such inputs at all."""
    x, y, _ = moved(batches.points(0, 2), device)
    try:
        with torch.no_grad():
            outputs = module(**x) if isinstance(x, dict) else module(x)
    except Exception as error:  # whatever a plug-in's forward raises on data it was not made for
        said = f"{type(error).__name__}: {error}"[:300]
        raise DataMismatch(
            "The model cannot be applied to the inputs.", given=f"inputs {described(x)}: {said}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise DataMismatch("The model must return one tensor.", given=type(outputs).__name__)
    return outputs, y
