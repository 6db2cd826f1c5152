"""The safetensors files of a model folder: which there are, what they hold, and which tensors are parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from ihvp.errors import PickleRefused, WeightsMismatch

__all__ = ["INDEX_FILE", "WEIGHTS_FILE", "check_shards", "is_parameter", "pick_weights", "read_index"]

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
SHARD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors")
MOST_SHARDS: Final = 1024
STATISTICS: Final = frozenset({"running_mean", "running_var", "num_batches_tracked", "inv_freq", "masked_bias"})
"""Last parts of names that torch and transformers give to what is stored and never trained."""


def is_parameter(name: str, shape: tuple[int, ...], *, floating: bool) -> bool:
    """Whether a tensor of a checkpoint is a parameter, as far as its name, shape and kind of numbers tell.

    The worker, which has the module, refuses checkpoints for which this is wrong.
    """
    if not floating or name.rpartition(".")[2] in STATISTICS:
        return False
    # The causal mask that GPT-2's checkpoints used to hold.
    return not (name.endswith("attn.bias") and len(shape) == 4 and shape[:2] == (1, 1))


def pick_weights(names: Collection[str], *, adapter: bool = False) -> str:
    """The file of a folder that its weights are read from first: the only one, or the index of several.

    Args:
        names: The files of the folder.
        adapter: Whether it is an adapter's.

    Raises:
        PickleRefused: There are weights, but pickled ones only.
        WeightsMismatch: There are none.
    """
    wanted = ("adapter_model.safetensors",) if adapter else (WEIGHTS_FILE, INDEX_FILE)
    for name in wanted:
        if name in names:
            return name
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    if pickled:
        raise PickleRefused(
            "The folder holds its weights as pickles only, which run code when they are read.",
            given=", ".join(pickled[:5]),
            allowed=" or ".join(wanted),
            hint="Where you trust the file: AutoModel.from_pretrained(folder).save_pretrained(other) with a class of "
            "the model's task writes safetensors.",
        )
    raise WeightsMismatch(
        "The folder holds no weights.", given=", ".join(sorted(names)[:20]), allowed=" or ".join(wanted)
    )


def read_index(document: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Which shard each tensor lies in, from an index file.

    Args:
        document: The index.
        names: The files of the folder.

    Raises:
        WeightsMismatch: It is no index, or names files that are not in the folder.
    """
    table = document.get("weight_map")
    if not isinstance(table, Mapping) or not table:
        raise WeightsMismatch(f"{INDEX_FILE} has no 'weight_map'.", allowed="an object: tensor name → file name")
    for name, file in table.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise WeightsMismatch(
                f"{INDEX_FILE} names a file that is no shard of this folder.",
                given=f"{name!s:.100}: {file!s:.200}",
                allowed="the names of safetensors files beside it",
            )
    if len(set(table.values())) > MOST_SHARDS:
        raise WeightsMismatch(f"{INDEX_FILE} names too many files.", allowed=f"at most {MOST_SHARDS}")
    missing = sorted(set(table.values()).difference(names))
    if missing:
        raise WeightsMismatch(
            "A shard that the index names is not in the folder.",
            given=", ".join(missing[:5]),
            allowed=", ".join(sorted(set(table.values()))[:20]),
        )
    return dict(table)


def check_shards(index: Mapping[str, str], shards: Mapping[str, Iterable[str]]) -> None:
    """Compares an index with what its shards hold.

    Args:
        index: Tensor name → shard.
        shards: Shard → the tensors in it.

    Raises:
        WeightsMismatch: They disagree; names the first few tensors.
    """
    held = {(name, file) for file, names in shards.items() for name in names}
    faults = [f"{name} is not in {file}" for name, file in index.items() if (name, file) not in held]
    faults += [
        f"{file} holds {name}, which the index places elsewhere" for name, file in held if index.get(name) != file
    ]
    if faults:
        raise WeightsMismatch(
            "The index of the weights and its shards disagree.",
            given="; ".join(sorted(faults)[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""),
            hint="Were all files of one save copied?",
        )
