"""A module of one's own, without its code: exported by torch.export, solved on by a service that has never seen it.

Run it with ``python -m examples.exported``. It trains a small gated network on handwritten digits, saves it as a
``.pt2`` program, starts a service that allows such programs, and shows which training digits influenced the test
digits that the network finds hardest.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from examples.command import console, run_example
from examples.digits import Digits, load_digits_split
from examples.running_service import RunningService
from ihvp import Client
from ihvp.client import SolveResult
from ihvp.client.progress import ProgressBar
from ihvp.methods import TerminationStatus
from ihvp.wire import Influence

RIGHT_HAND_SIDES: Final = 6
NEIGHBOURS: Final = 6
DAMPING: Final = 0.1
RTOL: Final = 1e-6
WEIGHT_DECAY: Final = 1e-3
ITERATIONS: Final = 80

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Question:
    """What the example asks about.

    Attributes:
        digits: The data.
        program: The exported network.
        chosen: Indices of the test images, the hardest first.
        probabilities: What the network says of them, ``[k, 10]``.
    """

    digits: Digits
    program: Path
    chosen: Array
    probabilities: Array


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    return run_example("exported", __doc__, _run, arguments)


def _run(out: Path) -> bool:
    with RunningService(out / "data", allow_exports="true") as service:
        question = _train(out / "glyphs.pt2")
        url = service.wait_until_ready()
        console.print(f"Service ready at {url}, exported programs allowed")
        with Client(url) as client:
            result, influence = _solve(client, question)
    console.print(_table(question, result, influence))
    return all(
        entry.status is TerminationStatus.Converged
        and entry.relative_residual is not None
        and entry.relative_residual <= RTOL
        for entry in result.certificate
    )


def _train(path: Path) -> Question:
    """Trains the network, and saves it as a program."""
    import torch

    digits = load_digits_split()
    began = time.monotonic()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the same weights come out each time
    try:
        network = _trained(digits)
        with torch.no_grad():
            logits = network(torch.from_numpy(digits.test_images))
    finally:
        torch.set_num_threads(threads)
    probabilities = logits.softmax(1).numpy()
    losses = -np.log(probabilities[np.arange(len(digits.test_labels)), digits.test_labels] + 1e-30)
    chosen = np.argsort(-losses)[:RIGHT_HAND_SIDES]
    right = float((probabilities.argmax(1) == digits.test_labels).mean())
    console.print(f"Trained in {time.monotonic() - began:.1f} s: {right:.1%} of the test digits are read correctly.")

    # Any number of points: the first dimension is left free.
    x = torch.from_numpy(digits.train_images[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it imports
        program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, path)
    console.print(f"Exported to {path}, {path.stat().st_size / 1024:.0f} KiB")
    return Question(digits, path, chosen, probabilities[chosen])


def _trained(digits: Digits) -> Any:
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

    torch.manual_seed(0)
    network = Glyphs()
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
    optimiser = torch.optim.LBFGS(
        network.parameters(), max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        decay = torch.stack([parameter.square().sum() for parameter in network.parameters()]).sum()
        value = nn.functional.cross_entropy(network(images), labels) + 0.5 * WEIGHT_DECAY * decay
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return network.eval()


def _solve(client: Client, question: Question) -> tuple[SolveResult, Influence]:
    digits, chosen = question.digits, question.chosen
    model = client.register_model(
        "glyphs",
        weights=question.program,
        loss="cross_entropy",
        data={"inputs": digits.train_images, "targets": digits.train_labels},
        dtype="float64",  # of the solve; the program was exported in float32
    )
    names = ", ".join(entry.name for entry in model.layout[:3])
    console.print(
        f"Registered {model.reference} as {model.spec.weights[:27]}…: {model.num_params} parameters ({names}, …)",
        soft_wrap=True,
    )
    job = client.submit(
        model=model.reference,
        rhs={"gradient_of": {"inputs": digits.test_images[chosen], "targets": digits.test_labels[chosen]}},
        hessian_perturbation=DAMPING,
        options={"rtol": RTOL},
        influence=True,
    )
    with ProgressBar(console) as bar:
        client.wait(job.id, on_progress=bar.show)
    return client.result(job.id), client.influence(job.id, NEIGHBOURS)


def _table(question: Question, result: SolveResult, influence: Influence) -> Table:
    """One line a test digit: what its certificate says, and the training digits that mattered most to it."""
    labels = question.digits.train_labels
    table = Table(title="The hardest test digits, and the training digits behind them", title_justify="left")
    for column in ("digit", "network says", "status", "residual", "most helpful", "most harmful"):
        table.add_column(column)
    rows = zip(question.chosen, question.probabilities, result.certificate, influence.top, strict=True)
    for index, probabilities, entry, top in rows:
        good = entry.status is TerminationStatus.Converged
        helpful, harmful = (
            " ".join(str(labels[point.index]) for point in points[:NEIGHBOURS])
            for points in (top.helpful, top.harmful)
        )
        table.add_row(
            str(question.digits.test_labels[index]),
            f"{probabilities.argmax()} ({probabilities.max():.0%})",
            Text(entry.status.value, style="green" if good else "red"),
            "not finite" if entry.relative_residual is None else f"{entry.relative_residual:.1e}",
            helpful,
            harmful,
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
