"""A LoRA adapter: the few parameters that a fine-tuning has trained, solved on over a base that stays as it is.

Run it with ``python -m examples.lora``. It trains a small DistilBERT on half of its sentences, then an adapter of it
on all of them, and asks which sentences made the adapted model judge test sentences as it does. The adapter's own
tensors are the parameters, so that the whole Gauss-Newton matrix is solved with in a moment, in float64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from examples.certificates import all_converged
from examples.command import console, run_example
from examples.running_service import RunningService
from examples.sentence_table import ASKED, chosen_sentences, sentence_table, solve
from examples.sentences import load_sentences, save_adapter, save_classifier
from ihvp import Client

DAMPING: Final = 0.1
RTOL: Final = 1e-6


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    return run_example("lora", __doc__, _run, arguments)


def _run(out: Path) -> bool:
    base, adapter = out.absolute() / "model", out.absolute() / "adapter"
    with RunningService(out / "data", source_roots=json.dumps([str(out.absolute())])) as service:
        train, test = load_sentences()
        console.print(f"Training a DistilBERT, and an adapter of it, on {len(train.texts)} sentences …")
        save_classifier(train.part(slice(None, None, 2)), base, steps=40)
        save_adapter(train, base, adapter)
        chosen = chosen_sentences(test, base, adapter)
        url = service.wait_until_ready()
        with Client(url) as client:
            model = client.register_model(
                "chapters-lora",
                weights=base.as_uri(),
                parameters={"adapter": adapter.as_uri()},
                data={"inputs": train.inputs, "targets": train.labels},
                dtype="float64",
            )
            console.print(
                f"Registered {model.reference}: {model.num_params} parameters of the adapter, "
                f"such as {model.layout[-1].name}",
                soft_wrap=True,
            )
            result, influence = solve(client, model.reference, test, chosen, DAMPING, RTOL)
    console.print(sentence_table(train, test, chosen, result, influence))
    return all_converged(result, ASKED, RTOL)


if __name__ == "__main__":
    sys.exit(main())
