"""From the names of a checkpoint's tensors to those of the module that transformers makes today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["module_names"]


def module_names(module: Any, stored: Sequence[str]) -> dict[str, str]:
    """The module's name for each stored tensor; a tensor without a place in it keeps its own.

    Checkpoints keep the names of the day on which their model type came; transformers renames them when it loads. A
    checkpoint of a model without its head lacks the prefix that stands before the names of one with a head.

    Args:
        module: A model of transformers.
        stored: The names of the checkpoint.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(module)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    places = module.state_dict()
    found: dict[str, str] = {}
    for name in stored:
        if name in places:
            found[name] = name
            continue
        own, _ = rename_source_key(name, renamings, [], module.base_model_prefix, places)
        found[name] = own if own in places else name
    return found
