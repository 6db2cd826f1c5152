"""A module of one's own, without its code: exported by torch.export, solved on by a service that has never seen it.

Run it with ``python -m examples.exported``. It trains a small gated network on handwritten digits, saves it as a
``.pt2`` program, starts a service that allows such programs, and shows which training digits influenced the test
digits that the network finds hardest.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from examples.command import console, run_example
from examples.digits import Digits, fit, load_digits_split
from examples.hardest_digits import HardestDigits
from examples.running_service import RunningService
from ihvp import Client

DAMPING: Final = 0.1
RTOL: Final = 1e-6
ITERATIONS: Final = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    return run_example("exported", __doc__, _run, arguments)


def _run(out: Path) -> bool:
    program, digits = out / "glyphs.pt2", load_digits_split()
    with RunningService(out / "data", allow_exports="true") as service:
        question = _trained(digits, program)
        url = service.wait_until_ready()
        console.print(f"Service ready at {url}, exported programs allowed")
        with Client(url) as client:
            model = client.register_model(
                "glyphs",
                weights=program,
                loss="cross_entropy",
                data={"inputs": digits.train_images, "targets": digits.train_labels},
                dtype="float64",  # of the solve; the program was exported in float32
            )
            names = ", ".join(entry.name for entry in model.layout[:3])
            reference = model.spec.weights[:27]
            console.print(
                f"Registered {model.reference} as {reference}…: {model.num_params} parameters ({names}, …)",
                soft_wrap=True,
            )
            return question.solve(client, model.reference, damping=DAMPING, rtol=RTOL)


def _trained(digits: Digits, path: Path) -> HardestDigits:
    """Trains the network, and saves it as a program."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the same weights come out each time
    try:
        torch.manual_seed(0)
        network = _network()
        fit(network, digits, ITERATIONS)
        network.eval()
        with torch.no_grad():
            log_probabilities = network(torch.from_numpy(digits.test_images)).log_softmax(1).numpy()
    finally:
        torch.set_num_threads(threads)
    question = HardestDigits(digits, log_probabilities)
    # Any number of points: the first dimension is left free.
    x = torch.from_numpy(digits.train_images[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it imports
        program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, path)
    console.print(f"Exported to {path}, {path.stat().st_size / 1024:.0f} KiB")
    return question


def _network() -> Any:
    import torch
    from torch import nn

    class Glyphs(nn.Module):
        """Two maps of which one gates the other, a path around a third, a layer norm: no type that the service has."""

        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Linear(64, 16)
            self.gate = nn.Linear(64, 16)
            self.around = nn.Linear(16, 16)
            self.norm = nn.LayerNorm(16)
            self.head = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))
            h = h + torch.tanh(self.around(h))
            return self.head(self.norm(h))  # type: ignore[no-any-return]

    return Glyphs()


if __name__ == "__main__":
    sys.exit(main())
