"""Points against a model of transformers, the model at hand: names, shapes, token ids, positions, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from ihvp.errors import DataMismatch, LossMismatch
from ihvp.models.huggingface import LIKE_TOKENS, HuggingFaceModel, Task
from workers.architectures.huggingface_calls import input_names
from workers.resolvers.columns import Column
from workers.resolvers.data import PointBatches
from workers.resolvers.data_checks import check_range

__all__ = ["ModelInputs"]


@dataclass(frozen=True)
class ModelInputs:
    """What a model takes.

    Attributes:
        model: What its config says.
        main: The argument that a tensor without a name is.
        names: All arguments that may be given.
        vocabulary: Token ids lie below it; None where there are none.
        positions: The longest sequence; None without a bound.
        token_types: Token type ids lie below it; None where there are none.
    """

    model: HuggingFaceModel
    main: str
    names: tuple[str, ...]
    vocabulary: int | None
    positions: int | None
    token_types: int | None

    @classmethod
    def of(cls, module: Any, model: HuggingFaceModel) -> Self:
        """What a module of transformers takes."""
        main, names = input_names(module)
        config = module.config
        text = model.task is not Task.ImageClassification
        return cls(
            model=model,
            main=main,
            names=tuple(names),
            vocabulary=module.get_input_embeddings().num_embeddings if text else None,
            positions=_positions(module, model) if text else None,
            token_types=getattr(config, "type_vocab_size", None) if text else None,
        )

    def check(self, batches: PointBatches) -> None:
        """Checks the inputs of points.

        Raises:
            DataMismatch: An input is unknown or missing, has not the shape or dtype that the model takes, or a token
                id, token type or mask is out of range.
        """
        given = self._by_name(batches)
        if self.vocabulary is None:
            return
        ids = given[self.main]
        if ids.dtype.is_floating_point or len(ids.shape) != 2 or not ids.shape[1]:
            raise DataMismatch(
                "A text model takes token ids.",
                given=f"{self.main} {list(ids.shape)} {ids.dtype}",
                allowed="integers [n, t]",
            )
        if self.positions is not None and ids.shape[1] > self.positions:
            raise DataMismatch(
                "The sequences are longer than the model's positions.",
                given=f"{ids.shape[1]} tokens",
                allowed=f"at most {self.positions}",
            )
        bounds = {"attention_mask": 2, "token_type_ids": self.token_types, "position_ids": self.positions}
        for name in LIKE_TOKENS:
            if name not in given:
                continue
            if given[name].shape != ids.shape:
                raise DataMismatch(
                    f"{name} has one number for each token.",
                    given=f"{name} {list(given[name].shape)}",
                    allowed=str(list(ids.shape)),
                )
            bound = bounds[name]
            if bound is not None:
                message = f"A number of {name} is none that the model knows."
                check_range(batches, given[name], 0, bound - 1, DataMismatch, message)
        message = "An input is not a token of the model's vocabulary."
        check_range(batches, ids, 0, self.vocabulary - 1, DataMismatch, message)

    def check_labels(self, batches: PointBatches) -> None:
        """Checks that a language model's labels stand where its tokens do.

        Raises:
            LossMismatch: They have another shape.
        """
        if self.model.task is not Task.CausalLm:
            return
        ids, targets = self._by_name(batches)[self.main], batches.rows.targets
        if targets.shape != ids.shape:
            raise LossMismatch(
                "A language model has one label for each token.",
                given=f"targets {list(targets.shape)}",
                allowed=str(list(ids.shape)),
                hint="Labels stand where their tokens do: they are shifted here.",
            )

    def _by_name(self, batches: PointBatches) -> dict[str, Column]:
        rows = batches.rows
        given = dict(rows.inputs) if rows.named else {self.main: next(iter(rows.inputs.values()))}
        unknown = [name for name in given if name not in self.names]
        if unknown or self.main not in given:
            raise DataMismatch(
                f"The model does not take an input {unknown[0]!r}."
                if unknown
                else f"The model's main input {self.main!r} is missing.",
                given=", ".join(given),
                allowed=", ".join(self.names),
                hint="Labels are the targets." if "labels" in unknown else None,
            )
        return given


def _positions(module: nn.Module, model: HuggingFaceModel) -> int | None:
    """The longest sequence that has a learned position for each token, or that the config allows."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in ("position_embeddings", "embed_positions"):
            # Some count from behind the row of the padding.
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    return model.positions
