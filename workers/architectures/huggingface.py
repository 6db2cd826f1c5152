"""Modules from the configs of Hugging Face models, made of transformers' own classes.

Nothing is unpickled, fetched, or imported because a config says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from ihvp.errors import InvalidArchitecture, UnknownArchitecture
from ihvp.models.huggingface import HuggingFaceModel, Task

__all__ = ["build_empty", "build_unset"]

DROPPED: Final = frozenset(
    {
        "attn_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "experts_implementation",
        "gradient_checkpointing",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_cache",
    }
)
"""Entries of a config that say how somebody ran the model, not what it is: kernels, outputs, ways to save memory."""
WRITTEN_OUT: Final = ("attn_logit_softcapping",)
"""Entries that only the attention which transformers writes out heeds."""


def build_empty(model: HuggingFaceModel) -> Any:
    """The module with shapes and no numbers, in no memory: what a config asks for can be looked at before it is made.

    Raises:
        UnknownArchitecture: transformers has no such model type, or none for this task.
        InvalidArchitecture: The config does not describe such a module.
    """
    with torch.device("meta"):
        return _build(model)


def build_unset(model: HuggingFaceModel) -> Any:
    """The module with its tables, and parameters that nobody has set; see :func:`build_empty` for errors.

    Attention is torch's own function wherever the class can use it: under the solvers' kernels it has second
    derivatives, and unlike the one that transformers writes out it computes in the dtype of the weights throughout.
    """
    from transformers.initialization import no_init_weights

    with no_init_weights():
        module = _build(model)
    # That belongs to setting the weights, which was left out.
    module.tie_weights()
    return module


def _build(model: HuggingFaceModel) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config_class = CONFIG_MAPPING[model.model_type]
    except KeyError:
        raise UnknownArchitecture(
            "transformers has no such model type, as it is installed here.",
            given=model.model_type,
            allowed="the model types of " + _version(),
            hint="Is the model newer than that, or does it bring code of its own?",
        ) from None
    try:
        config = config_class.from_dict(_plain(model.config))
        config.use_cache = False
    except Exception as error:  # whatever a model's config class raises on values that it was not made for
        raise _no_module(model, error) from error
    module_class = _class_of(model, config)
    try:
        written_out = any(model.config.get(name) for name in WRITTEN_OUT)
        attention = "sdpa" if getattr(module_class, "_supports_sdpa", False) and not written_out else "eager"
        return module_class._from_config(config, attn_implementation=attention, dtype=torch.float32)
    except Exception as error:  # as above
        raise _no_module(model, error) from error


def _class_of(model: HuggingFaceModel, config: Any) -> Any:
    from transformers.models.auto import modeling_auto as auto

    by_task = {
        Task.SequenceClassification: auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        Task.CausalLm: auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        Task.ImageClassification: auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    }
    found = by_task[model.task].get(type(config), None)
    classes: list[Any] = list(found) if isinstance(found, (tuple, list)) else [] if found is None else [found]
    for offered in classes:
        if offered.__name__ == model.class_name:
            return offered
    raise UnknownArchitecture(
        f"transformers has no such class for {model.task.value} with models of type {model.model_type!r}.",
        given=model.class_name,
        allowed=", ".join(offered.__name__ for offered in classes) or "none for this task",
    )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what says how the model is run."""
    return {key: value for key, value in config.items() if key not in DROPPED and not key.startswith("_")}


def _no_module(model: HuggingFaceModel, error: Exception) -> InvalidArchitecture:
    return InvalidArchitecture(
        f"The config does not describe a {model.class_name}: {type(error).__name__}: {error}"[:500],
        hint=f"It was read with {_version()}.",
    )


def _version() -> str:
    import transformers

    return f"transformers {transformers.__version__}"
