"""Models in Hugging Face layout: a module of transformers with the trained weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from ihvp.errors import InvalidArchitecture, WeightsMismatch
from ihvp.models.checkpoints import is_parameter
from ihvp.models.huggingface import MOST_LAYERS, HuggingFaceModel
from solvers.snapshot import state_flat_names
from workers.architectures.checkpoint_names import module_names
from workers.architectures.huggingface import build_empty, build_unset
from workers.resolvers.weights import check_weights, load_weights

__all__ = ["trained_module"]

BUFFER_ROOM: Final = 64 * 2**20
"""Bytes of buffers that a module may have beyond those of its weights: tables of positions and the like."""


def trained_module(model: HuggingFaceModel, weights: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """The module with its weights, in evaluation mode, as transformers calls it: named inputs, several outputs.

    Flat vectors have the parameters in the order of their names in the checkpoint, by which callers know them: that
    much of it can be read without transformers.

    Args:
        model: What the config says.
        weights: The tensors of the checkpoint by name, not read yet.
        dtype: Of the parameters.

    Raises:
        UnknownArchitecture: transformers has no such model type, or none for this task.
        InvalidArchitecture: The config does not describe such a module.
        WeightsMismatch: Names or shapes of config and weights disagree.
        NonFiniteWeights: A tensor holds NaN or infinity.
    """
    _check_depth(model, weights)
    draft = build_empty(model)
    # Before the module is made: a config may ask for more memory than any weights that are there.
    names = module_names(draft, list(weights))
    own_names = _parameters_by_identity(draft)
    shapes = [(name, tuple(p.shape)) for name, p in draft.named_parameters()]
    renamed = _renamed(weights, names, own_names, draft)
    buffers = {name for name, _ in draft.named_buffers()}
    check_weights(shapes, {name: t for name, t in renamed.items() if name not in buffers})
    _check_buffers(draft, weights)
    module: nn.Module = build_unset(model)
    load_weights(module, renamed, dtype)
    parameters = {name for name, _ in module.named_parameters()}
    places = {name: own_names.get(own, own) for name, own in sorted(names.items())}
    flat = {own: name for name, own in places.items() if own in parameters}
    _check_layout(flat, weights)
    state_flat_names(module, flat)
    return module


def _parameters_by_identity(module: nn.Module) -> dict[str, str]:
    """The name in ``named_parameters()`` for each name that a parameter has; tied ones have several."""
    first = {id(p): name for name, p in module.named_parameters()}
    return {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}


def _renamed(
    weights: Mapping[str, Tensor], names: Mapping[str, str], own_names: Mapping[str, str], module: nn.Module
) -> dict[str, Tensor]:
    """The weights by the module's own names; what has no place in it keeps its name, unless it cannot be trained."""
    found: dict[str, Tensor] = {}
    stored: dict[str, str] = {}
    places = set(module.state_dict())
    for name, tensor in weights.items():
        own = own_names.get(names[name], names[name])
        if own not in places and not is_parameter(name, tuple(tensor.shape), floating=tensor.is_floating_point()):
            continue
        if own in found:
            raise WeightsMismatch(
                "Two tensors of the weights are one parameter of the module, which would count twice.",
                given=f"{stored[own]}, {name}",
                allowed="tied weights stored once",
                hint="save_pretrained stores them so.",
            )
        found[own] = tensor
        stored[own] = name
    return found


def _check_depth(model: HuggingFaceModel, weights: Mapping[str, Tensor]) -> None:
    """Refuses a number of layers that the weights cannot have: even empty ones take time to make."""
    for key, value in model.config.items():
        counts = isinstance(value, int) and not isinstance(value, bool) and "layer" in key and "window" not in key
        if counts and value > min(MOST_LAYERS, len(weights)):
            raise WeightsMismatch(
                "The config has more layers than the weights have tensors.",
                given=f"{key}: {value}, {len(weights)} tensors",
                allowed=f"at most {MOST_LAYERS} layers, each with its weights",
            )


def _check_buffers(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    size = sum(buffer.nbytes for buffer in module.buffers())
    allowed = sum(tensor.nbytes for tensor in weights.values()) + BUFFER_ROOM
    if size > allowed:
        raise InvalidArchitecture(
            "The config asks for tables that are larger than the weights.",
            given=f"{size} bytes of buffers",
            allowed=f"{allowed} bytes",
        )


def _check_layout(flat: Mapping[str, str], weights: Mapping[str, Tensor]) -> None:
    """Holds the layout against the one that is read from the headers alone, which callers were told."""
    told = {name for name, t in weights.items() if is_parameter(name, tuple(t.shape), floating=t.is_floating_point())}
    odd = sorted(told ^ set(flat.values()))
    if odd:
        raise WeightsMismatch(
            "A tensor of the weights is no parameter of the module, though its name does not show that.",
            given=", ".join(odd[:5]),
            allowed="parameters, and running statistics",
            hint="Name the parameters to solve for in a file without it.",
        )
