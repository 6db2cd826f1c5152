"""Modules with their trained weights, whichever way a spec names them, and what is known of each beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ihvp.errors import ModelTooLarge, WeightsMismatch
from ihvp.models.architectures import TRANSFORMERS, ArchitectureConfig, TransformerLmConfig, parse_architecture
from ihvp.models.huggingface import HuggingFaceModel, Task, loss_of, read_config
from ihvp.models.losses import LossSpec
from ihvp.models.spec import ModelSpec
from ihvp.references import TensorName
from ihvp.sources.pinning import pinned_folder
from workers.architectures import build_built_in, build_plugin
from workers.architectures.huggingface_calls import answer_with_logits
from workers.load_limits import MORE_MEMORY
from workers.resolvers.adapter import with_adapter
from workers.resolvers.data import PointBatches
from workers.resolvers.data_checks import check_inputs, check_length, check_targets
from workers.resolvers.exported import load_export
from workers.resolvers.files import FileAccess, local_folder
from workers.resolvers.folder import AdapterFiles, ModelFiles
from workers.resolvers.mapping import map_tensors
from workers.resolvers.pretrained import trained_module as pretrained_module
from workers.resolvers.pretrained_checks import ModelInputs
from workers.resolvers.weights import check_weights, load_weights

__all__ = ["TrainedModule", "trained_module"]


@dataclass(frozen=True)
class TrainedModule:
    """A module in evaluation mode.

    Attributes:
        module: It.
        built_in: The config of a built-in architecture.
        inputs: What a model of transformers takes.
    """

    module: nn.Module
    built_in: ArchitectureConfig | None = None
    inputs: ModelInputs | None = None

    @property
    def predicts_next_tokens(self) -> bool:
        """Whether it is a language model of transformers, whose labels stand where their tokens do."""
        return self.inputs is not None and self.inputs.model.task is Task.CausalLm

    def loss(self, spec: ModelSpec, *, whole_targets: bool) -> LossSpec:
        """The loss: the spec's, or the model's own.

        Raises:
            LossMismatch: There is none, or none of this kind of model.
        """
        if self.inputs is None:
            return spec.stated_loss()
        return loss_of(self.inputs.model, spec.loss, whole_targets=whole_targets)

    def check(self, batches: PointBatches, loss: LossSpec, num_classes: int | None) -> None:
        """Checks points against what is known.

        Raises:
            DataMismatch: The inputs are none that it takes.
            LossMismatch: The targets cannot be targets of the loss.
            TargetsOutOfRange: A target is out of range.
        """
        if self.inputs is not None:
            self.inputs.check(batches)
            self.inputs.check_labels(batches)
        elif self.built_in is not None:
            tokens = self.built_in.vocabulary if isinstance(self.built_in, TransformerLmConfig) else None
            check_inputs(batches, self.built_in.input_shape(), tokens=tokens)
            if isinstance(self.built_in, TransformerLmConfig):
                check_length(batches, self.built_in.context)
        check_targets(batches, loss, num_classes)

    def answer_for(self, loss: LossSpec, batches: PointBatches) -> None:
        """Has a model of transformers return what its loss takes: see ``answer_with_logits``."""
        if self.inputs is not None:
            one = self.inputs.model.num_labels == 1 and loss.type != "cross_entropy"
            flat = one and len(batches.rows.targets.shape) == 1
            answer_with_logits(self.module, self.inputs.model.task, main_input=self.inputs.main, flat=flat)


def trained_module(files: FileAccess, spec: ModelSpec, dtype: torch.dtype, room: int | None = None) -> TrainedModule:
    """What a spec names.

    Args:
        files: Where its files are.
        spec: It.
        dtype: Of the parameters.
        room: Bytes of memory that they may take.

    Raises:
        InvalidInput: Architecture and weights cannot be used, or do not fit together.
        BlobNotFound: A blob is gone.
        ModelTooLarge: They need more.
    """
    if spec.exported is not None:
        return TrainedModule(load_export(files, spec.exported, dtype))
    config, weights = _config_and_weights(files, spec)
    if room is not None:
        _check_room(weights, dtype, room)
    if config is not None:
        return _pretrained(files, spec, config, weights, dtype)
    architecture = spec.stated_architecture()
    kind = architecture.type
    # A name the worker has no plug-in for is refused by build_plugin, which says what is installed here.
    built_in = parse_architecture(kind, architecture.config, extra=(kind,))
    if built_in is None:
        module = build_plugin(kind, architecture.config)
    else:
        # Before the module is made: a config may ask for more memory than any weights that were uploaded.
        check_weights(built_in.layout(), weights)
        module = build_built_in(built_in)
    load_weights(module, weights, dtype)
    return TrainedModule(module, built_in)


def _check_room(weights: Mapping[str, Tensor], dtype: torch.dtype, room: int) -> None:
    """By the headers alone: the tensors are mapped, and not read yet."""
    needed = sum(t.numel() * (dtype.itemsize if t.is_floating_point() else t.itemsize) for t in weights.values())
    if needed > room:
        raise ModelTooLarge(
            "The weights need more memory than loading a model may take.",
            given=f"at least {needed} bytes in {str(dtype).removeprefix('torch.')}",
            allowed=f"{room} bytes",
            hint=MORE_MEMORY,
        )


def _config_and_weights(files: FileAccess, spec: ModelSpec) -> tuple[HuggingFaceModel | None, dict[str, Tensor]]:
    """All tensors, and the config where it is a model of transformers."""
    architecture = spec.architecture
    config = None
    if architecture is not None and architecture.type == TRANSFORMERS:
        config = read_config(architecture.config)
    if pinned_folder(spec.weights, spec.sources):
        with local_folder(files, spec.weights, spec.sources) as place:
            folder = ModelFiles.of(place)
            if architecture is None:
                config = read_config(folder.config())
            return config, folder.weights()
    spec.stated_architecture()
    reference = TensorName.parse(spec.weights)
    if reference.name is not None:
        raise WeightsMismatch(
            "Weights are a whole file, not one tensor of it.", given=spec.weights, allowed=reference.source
        )
    return config, map_tensors(files, reference.source)


def _pretrained(
    files: FileAccess, spec: ModelSpec, config: HuggingFaceModel, weights: dict[str, Tensor], dtype: torch.dtype
) -> TrainedModule:
    module = pretrained_module(config, weights, dtype)
    inputs = ModelInputs.of(module, config)
    if spec.parameters.adapter is not None:
        with local_folder(files, spec.parameters.adapter, spec.sources) as place:
            adapter = AdapterFiles.of(place)
            module = with_adapter(module, adapter.config(), adapter.weights(), dtype)
    return TrainedModule(module, inputs=inputs)
