"""A transformer in Hugging Face layout: which sentences of its training made it judge a test sentence as it does?

Run it with ``python -m examples.transformer``. It trains a small DistilBERT to tell chapters of Python's reference
apart, saves it as transformers does, and has a service solve on the folder. Nothing of the model is uploaded or
described: the folder says its architecture, its layout and its loss.
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
from examples.sentences import load_sentences, save_classifier
from ihvp import Client

DAMPING: Final = 0.1
RTOL: Final = 1e-4


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    return run_example("transformer", __doc__, _run, arguments)


def _run(out: Path) -> bool:
    folder = out.absolute() / "model"
    with RunningService(out / "data", source_roots=json.dumps([str(out.absolute())])) as service:
        train, test = load_sentences()
        console.print(f"Training a DistilBERT on {len(train.texts)} sentences of Python's reference …")
        save_classifier(train, folder)
        chosen = chosen_sentences(test, folder)
        url = service.wait_until_ready()
        with Client(url) as client:
            model = client.register_model(
                "chapters", weights=folder.as_uri(), data={"inputs": train.inputs, "targets": train.labels}
            )
            console.print(
                f"Registered {model.reference} from {folder.as_uri()}: {model.num_params} parameters", soft_wrap=True
            )
            result, influence = solve(client, model.reference, test, chosen, DAMPING, RTOL)
    console.print(sentence_table(train, test, chosen, result, influence))
    return all_converged(result, ASKED, RTOL)


if __name__ == "__main__":
    sys.exit(main())
