"""Sentences of Python's own reference by what they are about, and small transformers that are trained to tell."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

__all__ = ["TOPICS", "Sentences", "load_sentences", "predict", "save_adapter", "save_classifier"]

TOPICS: Final = {
    "debugger": "the debugger",
    "string-methods": "methods of strings",
    "formatstrings": "format strings",
    "typesmapping": "dictionaries",
}
"""Chapters of the reference that comes with Python, in the order of their classes."""
LENGTH: Final = 32
TESTED: Final = 5
"""One sentence in so many is kept for tests."""
PADDING, START, UNKNOWN = 0, 1, 2
FIRST_WORD: Final = 3

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Sentences:
    """Sentences and their classes.

    Attributes:
        texts: As they stand in the reference.
        inputs: ``input_ids`` and ``attention_mask``, ``[n, 32]`` each.
        labels: ``[n]``: places in ``TOPICS``.
        vocabulary: How many token ids there are.
    """

    texts: list[str]
    inputs: dict[str, Array]
    labels: Array
    vocabulary: int

    def rows(self, which: Array | slice) -> dict[str, Array]:
        """The inputs of some of them."""
        return {name: array[which] for name, array in self.inputs.items()}

    def part(self, which: slice) -> Sentences:
        """Some of them."""
        return Sentences(self.texts[which], self.rows(which), self.labels[which], self.vocabulary)


def load_sentences() -> tuple[Sentences, Sentences]:
    """Those to train on, and those to test with."""
    found = [(text, label) for label, topic in enumerate(TOPICS) for text in _sentences_of(topic)]
    train = [pair for place, pair in enumerate(found) if place % TESTED]
    test = [pair for place, pair in enumerate(found) if place % TESTED == 0]
    counts = Counter(word for text, _ in train for word in _words(text))
    words = {word: place for place, word in enumerate(sorted(w for w, n in counts.items() if n > 1), FIRST_WORD)}
    return _encoded(train, words), _encoded(test, words)


def save_classifier(train: Sentences, folder: Path, *, width: int = 32, layers: int = 2, steps: int = 60) -> None:
    """Trains a DistilBERT from nothing and saves it in Hugging Face layout."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # of files of some kilobytes
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=train.vocabulary,
        max_position_embeddings=LENGTH,
        dim=width,
        n_layers=layers,
        n_heads=2,
        hidden_dim=2 * width,
        id2label=dict(enumerate(TOPICS.values())),
        label2id={name: label for label, name in enumerate(TOPICS.values())},
        problem_type="single_label_classification",
    )
    model = DistilBertForSequenceClassification(config)
    _fit(model, train, steps, learning_rate=2e-3)
    model.save_pretrained(folder)


def save_adapter(train: Sentences, base: Path, folder: Path, *, steps: int = 60) -> None:
    """Trains a LoRA adapter on a saved model and saves it, the model's classifier with it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DistilBertForSequenceClassification

    torch.manual_seed(0)
    wanted = LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=8, target_modules=["q_lin", "v_lin"], lora_dropout=0.0)
    model = get_peft_model(DistilBertForSequenceClassification.from_pretrained(base), wanted)
    _fit(model, train, steps, learning_rate=5e-3)
    model.save_pretrained(str(folder))


def predict(sentences: Sentences, folder: Path, adapter: Path | None = None) -> Array:
    """The probabilities ``[n, classes]`` that a saved model gives."""
    import torch
    from transformers import DistilBertForSequenceClassification

    model: Any = DistilBertForSequenceClassification.from_pretrained(folder)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        logits = model.eval()(**{name: torch.from_numpy(array) for name, array in sentences.inputs.items()}).logits
    found: Array = logits.softmax(1).numpy()
    return found


def _fit(model: Any, train: Sentences, steps: int, learning_rate: float) -> None:
    import torch

    inputs = {name: torch.from_numpy(array) for name, array in train.inputs.items()}
    labels = torch.from_numpy(train.labels)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(labels), (64,), generator=generator)
        loss = model(**{name: tensor[rows] for name, tensor in inputs.items()}, labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def _sentences_of(topic: str) -> list[str]:
    from pydoc_data.topics import topics

    found = []
    for paragraph in re.split(r"\n\n+", topics[topic]):
        text = " ".join(paragraph.split())
        if "::=" in text or ">>>" in text:
            continue
        found += [s for s in re.split(r"(?<=[.!?]) +(?=[A-Z])", text) if s.endswith(".") and 6 <= len(_words(s)) <= 40]
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _encoded(pairs: list[tuple[str, int]], words: dict[str, int]) -> Sentences:
    ids = np.full((len(pairs), LENGTH), PADDING, dtype=np.int64)
    for row, (text, _) in enumerate(pairs):
        tokens = [START, *(words.get(word, UNKNOWN) for word in _words(text))][:LENGTH]
        ids[row, : len(tokens)] = tokens
    return Sentences(
        texts=[text for text, _ in pairs],
        inputs={"input_ids": ids, "attention_mask": (ids != PADDING).astype(np.int64)},
        labels=np.array([label for _, label in pairs], dtype=np.int64),
        vocabulary=len(words) + FIRST_WORD,
    )
