"""LoRA adapters, put on a frozen model by peft and not merged into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from ihvp.errors import InvalidAdapter
from ihvp.models.adapters import check_adapter_config
from solvers.snapshot import state_flat_names
from workers.resolvers.weights import check_finite, check_weights

__all__ = ["with_adapter"]

PREFIX: Final = "base_model.model."
FACTOR_ENDINGS: Final = (".lora_A.weight", ".lora_embedding_A")
TAKEN_OVER: Final = (
    "r",
    "lora_alpha",
    "use_rslora",
    "fan_in_fan_out",
    "bias",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
)
NAME: Final = "default"
"""peft's name for the only adapter of a model; files leave it out."""
HEADS: Final = ("classifier", "score")
"""What peft trains with a classifier's adapter where nothing else was asked for."""


def with_adapter(
    module: nn.Module, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype
) -> nn.Module:
    """The model with its adapter, all frozen but the adapter's tensors.

    Those are what the file holds: low-rank factors, biases, and modules that were trained as a whole. Flat vectors
    have them in the order of their names in the file, by which callers know them.

    Args:
        module: A model of transformers; changed.
        config: ``adapter_config.json``.
        weights: The adapter's tensors by name.
        dtype: Of the parameters.

    Raises:
        InvalidAdapter: It is of a kind that is not offered, or belongs to another model.
        WeightsMismatch: Names or shapes do not fit.
        NonFiniteWeights: A tensor holds NaN or infinity.
    """
    check_adapter_config(config)
    wanted = _lora_config(module, config, weights)
    try:
        from peft import PeftModel

        adapted = PeftModel(module, wanted, adapter_name=NAME)
    except Exception as error:  # whatever peft raises on modules that it cannot adapt
        raise InvalidAdapter(
            f"The adapter cannot be put on this model: {type(error).__name__}: {error}"[:500],
            hint="Is it the model that the adapter was trained on?",
        ) from error
    own = {_stored_name(name): name for name, _ in adapted.named_parameters()}
    parameters = dict(adapted.named_parameters())
    trained = {name for name, p in parameters.items() if p.requires_grad} | {own[n] for n in weights if n in own}
    shapes = [(_stored_name(name), tuple(parameters[name].shape)) for name in sorted(trained, key=_stored_name)]
    check_weights(shapes, weights)
    check_finite(weights)
    adapted.requires_grad_(False)
    adapted.to(dtype)  # peft makes them in float32
    with torch.no_grad():
        for name, tensor in weights.items():
            parameter = parameters[own[name]]
            parameter.copy_(tensor)
            parameter.requires_grad_(True)
    adapted.eval()
    state_flat_names(adapted, {own[name]: name for name in sorted(weights)})
    return adapted


def _lora_config(module: nn.Module, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    from peft import LoraConfig

    modules = {name for name, _ in module.named_modules()}
    # From the file, not from the config: what stands there may be a regular expression, and some never end.
    targets = sorted(
        {
            name.removeprefix(PREFIX).removesuffix(end)
            for name in weights
            for end in FACTOR_ENDINGS
            if name.endswith(end)
        }
    )
    missing = [name for name in targets if name not in modules]
    if missing or not targets:
        raise InvalidAdapter(
            "The adapter belongs to another model: it changes modules that this one does not have."
            if targets
            else "The adapter's file holds no low-rank factors.",
            given=", ".join(missing[:5]) or ", ".join(sorted(weights)[:5]),
            allowed=", ".join(sorted(modules - {""})[:20]) + ", …",
        )
    heads = config.get("modules_to_save")
    if heads is None and config.get("task_type") in ("SEQ_CLS", "TOKEN_CLS"):
        heads = list(HEADS)
    options = {name: config[name] for name in TAKEN_OVER if config.get(name) is not None}
    try:
        return LoraConfig(target_modules=targets, modules_to_save=heads, **options)
    except Exception as error:  # whatever peft raises on values of the wrong kind
        raise InvalidAdapter(f"The adapter's config cannot be used: {type(error).__name__}: {error}"[:500]) from error


def _stored_name(name: str) -> str:
    """The name that peft stores a parameter under."""
    return name.replace(f".modules_to_save.{NAME}.", ".").replace(f".{NAME}.", ".").removesuffix(f".{NAME}")
