"""Modules of several kinds, their exported archives, and archives that somebody has tampered with."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Inputs = tuple[Tensor, ...]


class Stack(nn.Module):
    """Convolution, batch norm, an in-place activation, dropout, a constant and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.activation = nn.SiLU(inplace=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(3 * 16, 4)
        self.register_buffer("shift", torch.linspace(-1, 1, 4, dtype=torch.float64))
        self.scale = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
        self.norm.running_mean += 0.3  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.norm(self.convolution(x.reshape(-1, 1, 4, 4))))
        return self.head(self.dropout(h).flatten(1)) * self.scale + self.shift  # type: ignore[no-any-return]


class Reader(nn.Module):
    """A transformer layer with a padding mask over token ids, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.1, activation="gelu")
        self.head = nn.Linear(8, 9, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], dtype=torch.float64, device=ids.device)[None, :, None]
        h = self.layer(self.tokens(ids) + 0.1 * places, src_key_padding_mask=ids == 0)
        first, second = h.chunk(2, dim=-1)
        return self.head(torch.cat([second, first], -1).mean(1))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """Two inputs by name, sizes that are worked out, and a gate that is written into."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 6)
        self.outer = nn.Linear(3, 2)

    def forward(self, x: Tensor, gate: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.inner(x)).view(x.shape[0] * 2, 3) * gate.repeat_interleave(2, 0)
        h += 0.25
        return {"logits": self.outer(h).view(x.shape[0], 4)}


@dataclass(frozen=True)
class Case:
    """A module and some points for it, ``[n, ...]`` each."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    decompose: bool = False

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().double().eval()


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ids() -> Tensor:
    return torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7], [8, 1, 0, 0], [2, 2, 2, 2], [3, 1, 4, 1]])


CASES = {
    "stack": Case(Stack, lambda: (numbers(5, 16),)),
    "stack decomposed": Case(Stack, lambda: (numbers(5, 16),), decompose=True),
    "reader": Case(Reader, lambda: (ids(),)),
    "gated": Case(Gated, lambda: (numbers(5, 5), numbers(5, 3))),
}


def export(module: nn.Module, inputs: Inputs, path: Path, *, decompose: bool = False, fixed: bool = False) -> Path:
    """Saves the module as its owner would."""
    batch = torch.export.Dim("batch")
    shapes = None if fixed else tuple({0: batch} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if decompose else program, path)
    return path


def logits(output: Any) -> Tensor:
    found: Tensor = output["logits"] if isinstance(output, dict) else output
    return found


def loss(output: Any) -> Tensor:
    """Some smooth function with a full Hessian."""
    return functional.cross_entropy(logits(output), torch.arange(len(logits(output))) % logits(output).shape[1])


class Touch:
    """Pickles to something that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def poison(path: Path) -> bytes:
    return pickle.dumps(Touch(path))


Entries = dict[str, bytes]


def entries_of(archive: Path) -> tuple[str, Entries]:
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        root = names[0].partition("/")[0]
        return root, {name.partition("/")[2]: file.read(name) for name in names}


def rewritten(archive: Path, path: Path, change: Callable[[Entries], None], **keywords: Any) -> Path:
    """The archive with other entries."""
    root, entries = entries_of(archive)
    change(entries)
    with zipfile.ZipFile(path, "w", keywords.get("compression", zipfile.ZIP_STORED)) as file:
        for name, content in entries.items():
            file.writestr(name if name.startswith(("/", "..")) else f"{root}/{name}", content)
    return path


def in_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Entries], None]:
    """A change of an entry that is JSON."""

    def apply(entries: Entries) -> None:
        document = json.loads(entries[name])
        change(document)
        entries[name] = json.dumps(document).encode()

    return apply


def lying_directory(archive: Path, path: Path) -> Path:
    """The archive with a central directory that claims more bytes for its largest entry than there are."""
    content = bytearray(archive.read_bytes())
    at = struct.unpack_from("<I", content, content.rfind(b"PK\x05\x06") + 16)[0]
    assert content[at : at + 4] == b"PK\x01\x02"
    while content[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<HHH", content, at + 28)
        if content[at + 46 : at + 46 + name].endswith(b"weight_0"):
            struct.pack_into("<II", content, at + 20, 1 << 30, 1 << 30)
        at += 46 + name + extra + comment
    path.write_bytes(content)
    return path
