"""Models in Hugging Face layout, as their ``config.json`` describes them: read and judged without transformers.

The API and the worker read a config by the same rules, so that both know a model's task and loss; the worker alone
makes the module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from ihvp.errors import InvalidArchitecture, LossMismatch, RemoteCodeRefused
from ihvp.models.losses import LossSpec

__all__ = [
    "CONFIG_FILE",
    "LIKE_TOKENS",
    "HuggingFaceModel",
    "Task",
    "loss_of",
    "main_input",
    "own_loss",
    "parse_json",
    "read_config",
]

CONFIG_FILE: Final = "config.json"
IGNORED_LABEL: Final = -100
"""The label that causal language models are trained with where no token is to be predicted."""
LIKE_TOKENS: Final = ("attention_mask", "token_type_ids", "position_ids")
"""Inputs that have one number for each token."""
MAX_JSON: Final = 4 * 2**20
MOST_LAYERS: Final = 1024
CODE_KEYS: Final = ("auto_map", "custom_code", "custom_pipelines", "custom_generate", "trust_remote_code")
OUTSIDE_KEYS: Final = ("quantization_config", "backbone", "use_pretrained_backbone", "use_timm_backbone")
"""What would fetch other weights, or make numbers that have no second derivative."""


class Task(StrEnum):
    """What a model was trained for, by the end of its class's name."""

    SequenceClassification = "sequence_classification"
    CausalLm = "causal_lm"
    ImageClassification = "image_classification"


ENDINGS: Final[dict[str, Task]] = {
    "ForSequenceClassification": Task.SequenceClassification,
    "ForImageClassification": Task.ImageClassification,
    "ForCausalLM": Task.CausalLm,
    "LMHeadModel": Task.CausalLm,
}
PROBLEM_LOSSES: Final[dict[str, str]] = {
    "single_label_classification": "cross_entropy",
    "multi_label_classification": "bce_with_logits",
    "regression": "mse",
}


@dataclass(frozen=True)
class HuggingFaceModel:
    """What a ``config.json`` says of its model.

    Attributes:
        config: All of it.
        model_type: ``distilbert``, ``gpt2``, …
        class_name: The class of transformers that was trained.
        task: What for.
        num_labels: Outputs of a classifier; None for a language model.
        problem_type: Which loss a classifier was trained with, where the config says it.
        vocabulary: Token ids lie below it; None where the config has none.
        positions: The longest sequence; None where the config sets no bound.
    """

    config: Mapping[str, Any] = field(repr=False)
    model_type: str
    class_name: str
    task: Task
    num_labels: int | None
    problem_type: str | None
    vocabulary: int | None
    positions: int | None


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The object that a small JSON file of a model folder holds.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        InvalidArchitecture: It is too large, no JSON, or no object.
    """
    try:
        if len(data) > MAX_JSON:
            raise ValueError(f"more than {MAX_JSON} bytes")
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArchitecture(f"{name} cannot be read.", given=str(error)[:200], allowed="a JSON object") from None
    if not isinstance(document, dict):
        raise InvalidArchitecture(
            f"{name} cannot be read.", given=f"a JSON {type(document).__name__}", allowed="an object"
        )
    return document


def read_config(config: Mapping[str, Any]) -> HuggingFaceModel:
    """What a config says of its model.

    Raises:
        RemoteCodeRefused: It asks for code that is not transformers' own.
        InvalidArchitecture: It names no class of a task that is known here, or contradicts itself.
    """
    for key, value in _entries(config):
        if key in CODE_KEYS and value:
            raise RemoteCodeRefused(
                "The config asks for code of its own, and no code of a caller's is run here.",
                given=f"{key}: {json.dumps(value)[:200]}",
                allowed="models whose code is part of transformers",
                hint=f"If transformers has this model type itself, remove {key!r} from the config; else ask the "
                "operator for a plug-in.",
            )
        if key in OUTSIDE_KEYS and value:
            raise InvalidArchitecture(
                "The config needs more than the weights beside it, or weights that cannot be differentiated.",
                given=f"{key}: {json.dumps(value)[:200]}",
                hint="Save the model dequantised and with all of its weights in one folder.",
            )
    model_type = _text(config, "model_type")
    names = config.get("architectures")
    class_name = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) else ""
    task = next((task for ending, task in ENDINGS.items() if class_name.endswith(ending)), None)
    if task is None:
        raise InvalidArchitecture(
            "The config does not say that its model has one of the tasks that are known here.",
            given=f"architectures: {json.dumps(names)[:200]}",
            allowed="one class whose name ends in " + ", ".join(ENDINGS),
            hint="model.save_pretrained writes it.",
        )
    problem = config.get("problem_type")
    if problem is not None and problem not in PROBLEM_LOSSES:
        raise InvalidArchitecture(
            "No problem has this type.", given=str(problem)[:100], allowed=", ".join(PROBLEM_LOSSES)
        )
    return HuggingFaceModel(
        config=config,
        model_type=model_type,
        class_name=class_name,
        task=task,
        num_labels=None if task is Task.CausalLm else _num_labels(config),
        problem_type=problem,
        vocabulary=_count(config, "vocab_size"),
        positions=_count(config, "max_position_embeddings") or _count(config, "n_positions"),
    )


def main_input(task: Task) -> str:
    """The argument that a tensor of inputs without a name is."""
    return "pixel_values" if task is Task.ImageClassification else "input_ids"


def loss_of(model: HuggingFaceModel, stated: LossSpec | None, *, whole_targets: bool) -> LossSpec:
    """The loss of a model: the one that is stated, or its own.

    Args:
        model: The model.
        stated: What the caller asks for. A language model's labels of −100 are left out unless it names another.
        whole_targets: See :func:`own_loss`.

    Raises:
        LossMismatch: A language model is asked for another loss than cross-entropy.
    """
    if stated is None:
        return own_loss(model, whole_targets=whole_targets)
    if model.task is not Task.CausalLm:
        return stated
    if stated.is_plugin:
        return stated
    if stated.type != "cross_entropy":
        raise LossMismatch("A language model predicts classes.", given=stated.type, allowed="cross_entropy")
    if stated.ignore_index is None:
        return stated.model_copy(update={"ignore_index": IGNORED_LABEL})
    return stated


def own_loss(model: HuggingFaceModel, *, whole_targets: bool) -> LossSpec:
    """The loss a model was trained with: what transformers takes when it is given labels.

    Args:
        model: The model.
        whole_targets: Whether the targets are whole numbers, which tells classes from several labels at once where
            the config does not.
    """
    if model.task is Task.CausalLm:
        return LossSpec(type="cross_entropy", ignore_index=IGNORED_LABEL)
    if model.problem_type is not None:
        return LossSpec(type=PROBLEM_LOSSES[model.problem_type])
    if model.num_labels == 1:
        return LossSpec(type="mse")
    return LossSpec(type="cross_entropy" if whole_targets else "bce_with_logits")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a document, at whatever depth."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            yield from found.items()
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 100:
        raise InvalidArchitecture(
            f"The config has no {name!r}.",
            given=json.dumps(value)[:100],
            allowed="the name of a model type of transformers",
        )
    return value


def _count(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        # Some configs have -1 for a sequence without a bound.
        if value == -1:
            return None
        raise InvalidArchitecture(f"{name!r} must be a whole number above 0.", given=json.dumps(value)[:100])
    return value


def _num_labels(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and labels:
        return len(labels)
    return _count(config, "num_labels") or 2
