"""A model spec made real: module, weights, loss and data as one problem that solvers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ihvp.errors import DataMismatch, WeightsMismatch
from ihvp.exports import require_exports
from ihvp.jobs.submission import GradientOf
from ihvp.methods import Curvature
from ihvp.models.architectures import ArchitectureConfig, TransformerLmConfig, parse_architecture
from ihvp.models.spec import LossSpec, ModelSpec
from ihvp.references import TensorName
from ihvp.sources.pin import SourcePin
from solvers import Problem, TorchTwiceDifferentiable, loss_gradients
from solvers.batch import described, moved
from solvers.factors import FactorStore
from workers.architectures import build_built_in, build_plugin
from workers.device import solving_device
from workers.resolvers.data import PointBatches
from workers.resolvers.data_checks import check_inputs, check_length, check_targets
from workers.resolvers.exported import ExportedModule, load_export
from workers.resolvers.files import FileAccess, Files
from workers.resolvers.loss_check import check_loss
from workers.resolvers.losses import build_loss, check_outputs, classes_come_last, classes_second
from workers.resolvers.mapping import map_tensors
from workers.resolvers.points import PointFiles
from workers.resolvers.unpacking import Scratch
from workers.resolvers.weights import check_weights, freeze_others, load_weights

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
    _config: ArchitectureConfig | None
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
        return self.problem.nbytes + 2 * self.num_params * self.dtype.itemsize

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
        batches = PointFiles(files, self._scratch).batches(points, batch_size=1024, dtype=self.dtype, loss=self._loss)
        _check(batches, self._config, self._loss, self._num_classes)
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

    Raises:
        SetupError: There is no such device.
        InvalidInput: Architecture, weights, parameters, data or loss do not fit together; the codes are
            those that the API gives.
        BlobNotFound: A blob is gone.
    """
    dtype = DTYPES[spec.dtype]
    stated_loss = spec.stated_loss()
    place = solving_device(device)
    if spec.exported is not None:
        require_exports(allow_exports)
    module, config = _trained_module(files, spec, dtype)
    module.to(place)
    chosen = set(freeze_others(module, spec.parameters.include))
    layout = [(name, tuple(p.shape)) for name, p in module.named_parameters() if name in chosen]
    loss = build_loss(stated_loss).to(place)
    points = PointFiles(files, scratch or Scratch())
    batches = points.batches(spec.data, batch_size=spec.data.batch_size, dtype=dtype, loss=stated_loss)
    _check(batches, config, stated_loss, None)
    outputs, targets = _try_out(module, batches, place)
    check_outputs(stated_loss, outputs)
    if isinstance(module, ExportedModule):
        module.check_points_apart(moved(batches.points(0, 2), place).x)
    sequences = isinstance(config, TransformerLmConfig) and stated_loss.type == "cross_entropy"
    if sequences or classes_come_last(stated_loss, outputs, targets):
        module, outputs = classes_second(module), torch.movedim(outputs, -1, 1)
    num_classes = outputs.shape[1] if stated_loss.type == "cross_entropy" and outputs.ndim > 1 else None
    check_targets(batches, stated_loss, num_classes)
    model = TorchTwiceDifferentiable(module, loss)
    problem = Problem(model, batches, memory_budget=memory_budget, factor_store=factor_store)
    checked = check_loss(problem, batches, stated_loss, num_classes)
    return LoadedModel(problem, layout, checked, files, config, stated_loss, num_classes, points.scratch)


def _trained_module(
    files: FileAccess, spec: ModelSpec, dtype: torch.dtype
) -> tuple[nn.Module, ArchitectureConfig | None]:
    """The module with its weights, and the config where it is a built-in one."""
    if spec.exported is not None:
        return load_export(files, spec.exported, dtype), None
    architecture, _ = spec.stated()
    kind = architecture.type
    # A name the worker has no plug-in for is refused by build_plugin, which says what is installed here.
    config = parse_architecture(kind, architecture.config, extra=(kind,))
    reference = TensorName.parse(spec.weights)
    if reference.name is not None:
        raise WeightsMismatch(
            "Weights are a whole file, not one tensor of it.", given=spec.weights, allowed=reference.source
        )
    weights = map_tensors(files, reference.source)
    if config is None:
        module = build_plugin(kind, architecture.config)
    else:
        # Before the module is made: a config may ask for more memory than any weights that were uploaded.
        check_weights(config.layout(), weights)
        module = build_built_in(config)
    load_weights(module, weights, dtype)
    return module, config


def _check(batches: PointBatches, config: ArchitectureConfig | None, loss: LossSpec, num_classes: int | None) -> None:
    if config is not None:
        tokens = config.vocabulary if isinstance(config, TransformerLmConfig) else None
        check_inputs(batches, config.input_shape(), tokens=tokens)
        if isinstance(config, TransformerLmConfig):
            check_length(batches, config.context)
    check_targets(batches, loss, num_classes)


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
