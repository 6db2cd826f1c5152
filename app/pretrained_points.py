"""Points against a model of transformers: names and shapes of inputs, token ids, labels, as far as headers tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.stored_tensors import FLOAT_NAMES
from ihvp.errors import DataMismatch, LossMismatch, TargetsOutOfRange
from ihvp.models.huggingface import LIKE_TOKENS, Task, main_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.stored_tensors import StoredTensor
    from ihvp.models.huggingface import HuggingFaceModel
    from ihvp.models.spec import LossSpec

__all__ = ["check_model_inputs", "check_model_targets"]


def check_model_inputs(
    inputs: Mapping[str, StoredTensor], model: HuggingFaceModel, *, named: bool, scanned: bool
) -> None:
    """Checks the inputs of a set of points.

    Args:
        inputs: By name; the only one without a name is the model's main input.
        model: What its config says.
        named: Whether they have names.
        scanned: Whether values are looked at.

    Raises:
        DataMismatch: An input is missing, has not the shape or dtype that the model takes, or holds no token.
    """
    name = main_input(model.task)
    given = dict(inputs) if named else {name: next(iter(inputs.values()))}
    if name not in given:
        raise DataMismatch("The model's main input is missing.", given=", ".join(given), allowed=name)
    main = given[name]
    if model.task is Task.ImageClassification:
        if not main.is_floating or len(main.shape) != 4:
            raise DataMismatch(
                "An image model takes floating-point images.",
                given=f"{main.label} {list(main.shape)} {main.dtype}",
                allowed=f"[n, channels, height, width], {FLOAT_NAMES}",
                hint="Scale and normalise them as they were for training.",
            )
        return
    if not main.is_integer or len(main.shape) != 2 or not main.shape[1]:
        raise DataMismatch(
            "A text model takes token ids.",
            given=f"{main.label} {list(main.shape)} {main.dtype}",
            allowed="integers [n, t]",
        )
    if model.positions is not None and main.shape[1] > model.positions:
        raise DataMismatch(
            "The sequences are longer than the model's positions.",
            given=f"{main.shape[1]} tokens in {main.label}",
            allowed=f"at most {model.positions}",
        )
    for other in LIKE_TOKENS:
        if other in given and given[other].shape != main.shape:
            raise DataMismatch(
                f"{other} has one number for each token.",
                given=f"{given[other].label} {list(given[other].shape)}",
                allowed=str(list(main.shape)),
            )
    stray = None
    if model.vocabulary is not None and scanned and main.is_small:
        stray = main.first_outside(0, model.vocabulary - 1)
    if stray is not None:
        raise DataMismatch(
            "An input is not a token of the model's vocabulary.",
            given=f"{stray.value} at {list(stray.at)} of {main.label}",
            allowed=f"0 to {(model.vocabulary or 0) - 1}",
            hint="Are the ids of the model's own tokenizer?",
        )


def check_model_targets(
    targets: StoredTensor, main: StoredTensor, loss: LossSpec, model: HuggingFaceModel, *, scanned: bool
) -> None:
    """Checks the targets of a set of points; their number of rows is known to fit.

    Args:
        targets: Classes, labels of tokens, or numbers.
        main: The model's main input.
        loss: What is taken of them.
        model: What its config says.
        scanned: Whether values are looked at.

    Raises:
        LossMismatch: They are no targets of this loss and model.
        TargetsOutOfRange: One is no class of the model.
    """
    labels = model.num_labels or 1
    wanted: set[tuple[int, ...]]
    if loss.type == "cross_entropy":
        wanted = {main.shape if model.task is Task.CausalLm else targets.shape[:1]}
    else:
        wanted = {(*targets.shape[:1], labels)} | ({targets.shape[:1]} if labels == 1 else set())
    if targets.shape not in wanted:
        raise LossMismatch(
            "The targets do not have the shape that the loss of this model takes.",
            given=f"{targets.label} {list(targets.shape)}, {loss.type}",
            allowed=" or ".join(str(list(shape)) for shape in wanted),
            hint="Labels of a language model stand where their tokens do: they are shifted here."
            if model.task is Task.CausalLm
            else None,
        )
    classes = model.vocabulary if model.task is Task.CausalLm else labels
    if loss.type != "cross_entropy" or classes is None or not scanned or not targets.is_small:
        return
    stray = targets.first_outside(0, classes - 1, ignoring=loss.ignore_index)
    if stray is not None:
        ignored = "" if loss.ignore_index is None else f", or {loss.ignore_index} where none counts"
        raise TargetsOutOfRange(
            "A target is not a class that the model can predict.",
            given=f"{stray.value} at {list(stray.at)} of {targets.label}",
            allowed=f"0 to {classes - 1}{ignored}",
        )
