"""The question that examples ask about sentences, and its answer as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from examples.command import console
from examples.sentences import TOPICS, Sentences, predict
from ihvp import Client
from ihvp.client import SolveResult
from ihvp.client.progress import ProgressBar
from ihvp.methods import TerminationStatus
from ihvp.wire import Influence

__all__ = ["ASKED", "chosen_sentences", "sentence_table", "solve"]

ASKED: Final = 4
SHOWN: Final = 2
CHARACTERS: Final = 90

Array = np.ndarray[Any, np.dtype[Any]]


def chosen_sentences(test: Sentences, model: Path, adapter: Path | None = None) -> Array:
    """The test sentences that the model finds hardest, one of each class; tells how many it gets right."""
    probabilities = predict(test, model, adapter)
    right = float((probabilities.argmax(1) == test.labels).mean())
    console.print(f"{right:.0%} of {len(test.labels)} test sentences are told right.")
    losses = -np.log(probabilities[np.arange(len(test.labels)), test.labels] + 1e-30)
    hardest = [np.argmax(np.where(test.labels == label, losses, -1.0)) for label in range(len(TOPICS))]
    return np.array(hardest[:ASKED])


def solve(
    client: Client, model: str, test: Sentences, chosen: Array, damping: float, rtol: float
) -> tuple[SolveResult, Influence]:
    """Solves with the gradients of the loss at these sentences, and scores all training sentences.

    The Gauss-Newton matrix stands for the Hessian, which is indefinite where training was not run to its end.
    """
    job = client.submit(
        model=model,
        rhs={"gradient_of": {"inputs": test.rows(chosen), "targets": test.labels[chosen]}},
        curvature="ggn",
        hessian_perturbation=damping,
        options={"rtol": rtol, "atol": 0.0},
        influence=True,
    )
    with ProgressBar(console) as bar:
        client.wait(job.id, on_progress=bar.show)
    return client.result(job.id), client.influence(job.id, SHOWN)


def sentence_table(
    train: Sentences, test: Sentences, chosen: Array, result: SolveResult, influence: Influence
) -> Table:
    """For each test sentence its certificate, and the training sentences that helped and harmed it most."""
    names = list(TOPICS.values())
    table = Table(title="Hard test sentences, and the training sentences behind them", title_justify="left")
    for column in ("", "about", "sentence", "score"):
        table.add_column(column, overflow="fold")
    for index, entry, top in zip(chosen, result.certificate, influence.top, strict=True):
        good = entry.status is TerminationStatus.Converged
        residual = "not finite" if entry.relative_residual is None else f"{entry.relative_residual:.0e}"
        state = Text(f"{entry.status.value}, {residual}", style="green" if good else "red")
        table.add_row(state, names[test.labels[index]], Text(_short(test.texts[index]), style="bold"), "")
        for role, found in (("helpful", top.helpful), ("harmful", top.harmful)):
            for point in found[:SHOWN]:
                text = _short(train.texts[point.index])
                table.add_row(role, names[train.labels[point.index]], Text(text), f"{point.score:+.2f}")
        table.add_section()
    return table


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
