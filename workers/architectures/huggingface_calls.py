"""How models of transformers are called by solvers: a tensor or a dict of tensors in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from ihvp.models.huggingface import Task

__all__ = ["answer_with_logits", "input_names"]

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "pixel_values", "bool_masked_pos")
"""What may be sent. Labels are targets, and ready-made embeddings would bypass parameters."""


def input_names(module: Any) -> tuple[str, list[str]]:
    """The name that a single tensor of inputs is meant for, and all names that the model takes."""
    takes = inspect.signature(module.forward).parameters
    return str(module.main_input_name), [name for name in INPUTS if name in takes]


def answer_with_logits(module: nn.Module, task: Task, *, main_input: str, flat: bool) -> nn.Module:
    """Has the module take one tensor or a dict of tensors, and return its logits alone.

    Hooks, not a module around it: the parameters keep the names that callers know them by.

    Args:
        module: A model of transformers; changed.
        task: What it was trained for. A causal language model then returns the logits ``[n, classes, t - 1]`` of the
            second token to the last, as they are predicted from those before; others ``[n, labels]``.
        main_input: The name of the argument that a single tensor is.
        flat: Whether a single label comes as ``[n]``.
    """
    module.register_forward_pre_hook(partial(_by_name, main_input), with_kwargs=True)
    shape: Callable[[Tensor], Tensor] = _identity
    if task is Task.CausalLm:
        shape = _predictions
    elif flat:
        shape = _without_label
    module.register_forward_hook(partial(_logits_alone, shape))
    return module


def _by_name(
    main_input: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) != 1 or kwargs:
        return args, kwargs
    given = args[0]
    return (), dict(given) if isinstance(given, dict) else {main_input: given}


def _logits_alone(shape: Callable[[Tensor], Tensor], _module: nn.Module, _args: Any, output: Any) -> Tensor:
    return shape(output.logits)


def _identity(logits: Tensor) -> Tensor:
    return logits


def _predictions(logits: Tensor) -> Tensor:
    return torch.movedim(logits[:, :-1], -1, 1)


def _without_label(logits: Tensor) -> Tensor:
    return logits.squeeze(-1)
