"""LoRA adapters as their ``adapter_config.json`` describes them: read and judged without peft."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from ihvp.errors import InvalidAdapter

__all__ = ["ADAPTER_CONFIG_FILE", "ADAPTER_WEIGHTS_FILE", "check_adapter_config"]

ADAPTER_CONFIG_FILE: Final = "adapter_config.json"
ADAPTER_WEIGHTS_FILE: Final = "adapter_model.safetensors"
PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,299}")
REFUSED: Final[dict[str, str]] = {
    "use_dora": "its norm is kept out of the derivative, so that no Hessian belongs to it",
    "use_qalora": "it needs quantised weights",
    "megatron_config": "it names a module to import",
    "layer_replication": "it changes the model's layers",
    "loftq_config": "it changes the model's weights when it is put on",
    "eva_config": "it changes the model's weights when it is put on",
    "corda_config": "it changes the model's weights when it is put on",
    "trainable_token_indices": "it trains rows of an embedding",
    "target_parameters": "it changes parameters that belong to no layer",
    "alora_invocation_tokens": "its effect depends on where a token stands",
    "arrow_config": "it routes between several adapters",
    "runtime_config": "it is no part of the adapter",
}
"""Options of an adapter that are not offered, with the reason."""


def check_adapter_config(config: Mapping[str, Any]) -> None:
    """Checks that an adapter is a plain LoRA adapter.

    Raises:
        InvalidAdapter: It is of another kind, or has an option that is not offered here.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InvalidAdapter("Adapters of this kind are not offered.", given=json.dumps(kind)[:100], allowed="LORA")
    for name, reason in REFUSED.items():
        value = config.get(name)
        if value and value != {"ephemeral_gpu_offload": False}:
            raise InvalidAdapter(
                f"Adapters with {name!r} are not offered: {reason}.", given=f"{name}: {json.dumps(value)[:100]}"
            )
    start = config.get("init_lora_weights", True)
    if start not in (True, False, "gaussian"):
        raise InvalidAdapter(
            "Adapters that change the model's weights when they are put on are not offered.",
            given=f"init_lora_weights: {json.dumps(start)[:100]}",
            allowed="true, false or gaussian",
            hint="peft saves such an adapter as a plain one with path_initial_model_for_weight_conversion.",
        )
    for pattern in ("rank_pattern", "alpha_pattern"):
        table = config.get(pattern) or {}
        names = list(table) if isinstance(table, Mapping) else [table]
        # peft takes them for regular expressions, and some of those never end.
        odd = [name for name in names if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name)]
        if odd:
            raise InvalidAdapter(
                f"The names in {pattern!r} must be plain.",
                given=str(odd[0])[:200],
                allowed="names of modules: letters, digits, _ and .",
            )
