"""A solve for the test digits that a network finds hardest, and what it shows: used by several examples."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from examples.certificates import all_converged
from examples.command import console
from examples.digits import Digits
from ihvp import Client
from ihvp.client import SolveResult
from ihvp.client.progress import ProgressBar
from ihvp.methods import TerminationStatus
from ihvp.wire import Influence

__all__ = ["HardestDigits"]

ASKED: Final = 6
NEIGHBOURS: Final = 6
DAMPING: Final = 0.01
RTOL: Final = 1e-5

Array = np.ndarray[Any, np.dtype[Any]]


class HardestDigits:
    """The test digits whose loss is largest under a network.

    Args:
        digits: The data.
        log_probabilities: What the network says of the test images, ``[n, 10]``.
    """

    def __init__(self, digits: Digits, log_probabilities: Array) -> None:
        self.digits = digits
        losses = -log_probabilities[np.arange(len(digits.test_labels)), digits.test_labels]
        self._chosen = np.argsort(-losses)[:ASKED]
        self._log_probabilities = log_probabilities[self._chosen]
        right = float((log_probabilities.argmax(axis=1) == digits.test_labels).mean())
        console.print(
            f"Trained a network: {right:.1%} of the {len(digits.test_labels)} test digits are read correctly."
        )

    def solve(self, client: Client, model: str, *, damping: float = DAMPING, rtol: float = RTOL) -> bool:
        """Asks for the influence of the training digits, shows it, and says whether every certificate is good.

        Args:
            client: Of a running service.
            model: The registered model.
            damping: λ.
            rtol: Relative residual that each right-hand side has to reach.
        """
        job = client.submit(
            model=model,
            rhs={
                "gradient_of": {
                    "inputs": self.digits.test_images[self._chosen],
                    "targets": self.digits.test_labels[self._chosen],
                }
            },
            hessian_perturbation=damping,
            options={"rtol": rtol},
            influence=True,
        )
        with ProgressBar(console) as bar:
            client.wait(job.id, on_progress=bar.show)
        result, influence = client.result(job.id), client.influence(job.id, NEIGHBOURS)
        console.print(self._table(result, influence))
        return all_converged(result, ASKED, rtol)

    def _table(self, result: SolveResult, influence: Influence) -> Table:
        labels = self.digits.train_labels
        table = Table(title="The hardest test digits, and the training digits behind them", title_justify="left")
        for column in ("digit", "network says", "status", "residual", "most helpful", "most harmful"):
            table.add_column(column)
        rows = zip(self._chosen, self._log_probabilities, result.certificate, influence.top, strict=True)
        for index, row, entry, top in rows:
            good = entry.status is TerminationStatus.Converged
            table.add_row(
                str(self.digits.test_labels[index]),
                f"{row.argmax()} ({np.exp(row.max()):.0%})",
                Text(entry.status.value, style="green" if good else "red"),
                "not finite" if entry.relative_residual is None else f"{entry.relative_residual:.1e}",
                *(" ".join(str(labels[p.index]) for p in points) for points in (top.helpful, top.harmful)),
            )
        return table
