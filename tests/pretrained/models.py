"""Small models of transformers, trained for a moment and saved, and what they are held to: transformers itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    ViTConfig,
)

from examples.sentences import load_sentences

ROWS = 12
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@dataclass(frozen=True)
class Saved:
    """A trained model in a folder, and points for it in a file beside it.

    Attributes:
        folder: The model's.
        model: As transformers reads it again, in float64 and evaluation mode.
        inputs: By name.
        labels: As transformers takes them.
    """

    folder: Path
    model: Any
    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def points(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.safetensors"

    def spec(self, **changes: Any) -> dict[str, Any]:
        """Names the folder and the points, and nothing that the model says itself."""
        return {
            "weights": f"file://{self.folder}",
            "data": self.data(),
            "dtype": "float64",
            **changes,
        }

    def data(self, **changes: Any) -> dict[str, Any]:
        points = f"file://{self.points}"
        inputs = {name: f"{points}#{name}" for name in self.inputs}
        return {"inputs": inputs, "targets": f"{points}#labels", "batch_size": 5, **changes}

    def mean_loss(self) -> Tensor:
        """transformers' own loss of all points."""
        with sdpa_kernel(SDPBackend.MATH):
            loss: Tensor = self.model(**self.inputs, labels=self.labels).loss
            return loss

    def hessian_product(self, names: list[str], vector: Tensor) -> Tensor:
        """H v by double backward over all points at once, for parameters by transformers' names."""
        parameters = [dict(self.model.named_parameters())[name] for name in names]
        with sdpa_kernel(SDPBackend.MATH):
            loss = self.model(**self.inputs, labels=self.labels).loss
            given = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
            gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, **given)])
            product = torch.autograd.grad(gradient @ vector, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in product])


def _text() -> tuple[dict[str, Tensor], Tensor, int]:
    train, _ = load_sentences()
    rows = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))[:ROWS]
    inputs = {name: torch.from_numpy(array)[rows][:, :20].contiguous() for name, array in train.inputs.items()}
    return inputs, torch.from_numpy(train.labels)[rows], train.vocabulary


def _images() -> tuple[dict[str, Tensor], Tensor]:
    digits = load_digits()
    pixels = torch.from_numpy(digits.images[:ROWS]).unsqueeze(1).float() / 16
    return {"pixel_values": pixels}, torch.from_numpy(digits.target[:ROWS])


def _made(kind: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    if kind == "vit":
        inputs, labels = _images()
        config: Any = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **SMALL)
        return AutoModelForImageClassification.from_config(config), inputs, labels
    inputs, labels, vocabulary = _text()
    tokens = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
    common = {"vocab_size": vocabulary, "num_labels": 4}
    match kind:
        case "distilbert":
            config = DistilBertConfig(
                **common, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=20
            )
        case "bert":
            config = BertConfig(**common, **SMALL, max_position_embeddings=20)
        case "gpt2":
            ends = {"bos_token_id": 0, "eos_token_id": 0}
            config = GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2, n_positions=20, **ends)
            return AutoModelForCausalLM.from_config(config), inputs, tokens
        case "llama":
            config = LlamaConfig(vocab_size=vocabulary, num_key_value_heads=1, max_position_embeddings=20, **SMALL)
            return AutoModelForCausalLM.from_config(config), inputs, tokens
        case "gemma2":
            config = Gemma2Config(
                vocab_size=vocabulary,
                num_key_value_heads=1,
                head_dim=8,
                max_position_embeddings=20,
                attn_logit_softcapping=0.5,
                attn_implementation="eager",
                **SMALL,
            )
            return AutoModelForCausalLM.from_config(config), inputs, tokens
        case "regression":
            config = DistilBertConfig(
                **common | {"num_labels": 1}, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=20
            )
            return AutoModelForSequenceClassification.from_config(config), inputs, labels.float()
        case "several labels":
            config = DistilBertConfig(
                **common, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=20
            )
            several = torch.nn.functional.one_hot(labels, 4).float()
            several[:, 0] = 1.0
            return AutoModelForSequenceClassification.from_config(config), inputs, several
        case _:
            raise ValueError(kind)
    return AutoModelForSequenceClassification.from_config(config), inputs, labels


def train_and_save(kind: str, place: Path, **saving: Any) -> Saved:
    """A model of this kind, trained for a few steps."""
    torch.manual_seed(0)
    model, inputs, labels = _made(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    folder = place / kind.replace(" ", "-")
    model.save_pretrained(folder, **saving)
    attention = "eager" if kind == "gemma2" else "sdpa"
    again = type(model).from_pretrained(folder, attn_implementation=attention).eval().double()
    if kind == "vit":
        inputs = {"pixel_values": inputs["pixel_values"].double()}
    labels = labels.double() if labels.is_floating_point() else labels
    saved = Saved(folder, again, inputs, labels)
    save_file({**inputs, "labels": labels}, saved.points)
    return saved
