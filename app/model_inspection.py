"""A model spec against the files it refers to, without torch: names, shapes, dtypes, rows, classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.model_folders import ModelFolder, trained_shapes
from app.points import check_points
from app.stored_tensors import StoredTensor, find_tensors
from ihvp.errors import BlobNotFound, UnknownBlob, WeightsMismatch
from ihvp.exports import Archive, read_program, require_exports
from ihvp.models.architectures import TRANSFORMERS, ArchitectureConfig, num_elements, parse_architecture
from ihvp.models.huggingface import HuggingFaceModel, read_config
from ihvp.models.losses import check_loss
from ihvp.models.spec import LayoutEntry, ModelSpec, build_layout
from ihvp.references import TensorName
from ihvp.sources.uri import is_source_uri

if TYPE_CHECKING:
    from app.referenced_files import ReferencedFiles
    from ihvp.settings import Settings

__all__ = ["InspectedModel", "architecture_of", "inspect_model"]

MOST_NAMED: Final = 5

Shapes = list[tuple[str, tuple[int, ...]]]
Architecture = ArchitectureConfig | HuggingFaceModel


@dataclass(frozen=True)
class InspectedModel:
    """What the files that a spec refers to say about it.

    Attributes:
        spec: The spec, everything in it pinned.
        layout: Where each parameter stands in b and x.
        num_params: The length p of b and x.
        num_points: Training points.
    """

    spec: ModelSpec
    layout: list[LayoutEntry]
    num_params: int
    num_points: int


def architecture_of(spec: ModelSpec, settings: Settings) -> Architecture | None:
    """The checked config of the spec's architecture, as far as the spec itself holds it.

    None for a plug-in, for an exported program, and for a folder, whose config is a file in it.

    Raises:
        ExportsNotAllowed: It is an exported program, and the operator has not allowed any.
        UnknownArchitecture: The operator does not offer it.
        InvalidArchitecture: The config does not describe such a module, or a file of weights comes without any.
        RemoteCodeRefused: It asks for code of its own.
    """
    if spec.exported is not None:
        require_exports(settings.allow_exports)
        return None
    if spec.architecture is None and is_source_uri(spec.weights):
        return None
    architecture = spec.stated_architecture()
    if architecture.type == TRANSFORMERS:
        return read_config(architecture.config)
    return parse_architecture(architecture.type, architecture.config, settings.architectures)


def inspect_model(spec: ModelSpec, files: ReferencedFiles, settings: Settings) -> InspectedModel:
    """Pins what a spec refers to, and checks it; reads files, so call it in a thread.

    Raises:
        InvalidInput: What does not fit, each fault with its own code.
    """
    architecture = architecture_of(spec, settings)  # the cheapest fault to find comes first
    spec = spec.model_copy(update={"sources": files.pin(spec.source_uris(), spec.sources)})
    if spec.loss is not None:
        check_loss(spec.loss, settings.losses)
    folder = ModelFolder(spec.weights, files, spec.sources)
    if spec.architecture is None and spec.exported is None:
        architecture = folder.model() if folder.exists else architecture
        if architecture is None:
            spec.stated_architecture()
    if not isinstance(architecture, HuggingFaceModel):
        spec.stated_loss()
    shapes = _shapes(spec, files, folder, architecture)
    layout = build_layout(shapes, spec.parameters.include)
    num_points = check_points(spec.data, files, spec.loss, architecture, place="data")
    last = layout[-1]
    return InspectedModel(spec, layout, last.offset + num_elements(tuple(last.shape)), num_points)


def _shapes(spec: ModelSpec, files: ReferencedFiles, folder: ModelFolder, architecture: Architecture | None) -> Shapes:
    """The parameters, in the order of the flat vectors."""
    if spec.exported is not None:
        return _exported_shapes(files, spec.exported)
    weights = folder.tensors() if folder.exists else _weights(spec, files)
    if spec.parameters.adapter is not None:
        adapter = ModelFolder(spec.parameters.adapter, files, spec.sources)
        adapter.check_adapter()
        return trained_shapes(adapter.tensors(adapter=True))
    if isinstance(architecture, HuggingFaceModel):
        return trained_shapes(weights)
    # A plug-in's parameters are known to its worker alone; its weights file is the best that is to be had here.
    if architecture is None:
        return [(name, tensor.shape) for name, tensor in weights.items()]
    _check_weights(architecture.layout(), weights)
    return architecture.layout()


def _exported_shapes(files: ReferencedFiles, digest: str) -> Shapes:
    try:
        file = files.open(digest)
    except (BlobNotFound, FileNotFoundError):
        raise UnknownBlob(
            "The weights refer to a blob that was not uploaded.",
            given=digest,
            hint=f"Upload the .pt2 with PUT /v1/blobs/{digest}.",
        ) from None
    with file:
        return [(weight.name, weight.shape) for weight in read_program(Archive(file)).parameters]


def _weights(spec: ModelSpec, files: ReferencedFiles) -> dict[str, StoredTensor]:
    reference = TensorName.parse(spec.weights)
    if reference.name is not None:
        raise WeightsMismatch(
            "Weights are a whole file, not one tensor of it.", given=spec.weights, allowed=reference.source
        )
    weights = find_tensors(files, reference.source, place="weights")
    if not weights:
        raise WeightsMismatch("The weights hold no tensor.", given=reference.source)
    return weights


def _check_weights(expected: Shapes, weights: dict[str, StoredTensor]) -> None:
    faults: list[str] = []
    for name, shape in expected:
        tensor = weights.get(name)
        if tensor is None:
            faults.append(f"{name} is missing")
        elif tensor.shape != shape:
            faults.append(f"{name} has shape {list(tensor.shape)} instead of {list(shape)}")
        elif not tensor.is_floating:
            faults.append(f"{name} holds {tensor.dtype} instead of floating-point numbers")
    known = {name for name, _ in expected}
    faults += [f"{name} is no parameter of the architecture" for name in weights if name not in known]
    if faults:
        more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise WeightsMismatch(
            "The weights do not fit the architecture.",
            given="; ".join(faults[:MOST_NAMED]) + more,
            allowed=", ".join(f"{name} {list(shape)}" for name, shape in expected[:MOST_NAMED])
            + (", …" if len(expected) > MOST_NAMED else ""),
            hint="Save model.state_dict() of the same architecture with safetensors.torch.save_file.",
        )
