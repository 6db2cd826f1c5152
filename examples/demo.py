"""The main job end to end: train, upload, submit, certify, and show what influenced what.

Run it with ``make demo``. It starts a service of its own, keeps its data, and ends with the commands that do the same
by hand. With ``--url`` it asks a service that runs already, in containers say; its key is read from ``IHVP_API_KEY``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from examples.certificates import all_converged
from examples.command import console, exit_status
from examples.digits import ARCHITECTURE, LAYERS, Digits, load_digits_split, predict, train_mlp
from examples.picture import Neighbour, TestDigit, draw
from examples.running_service import RunningService, ServiceElsewhere
from ihvp import Client
from ihvp.client import SolveResult
from ihvp.client.progress import ProgressBar
from ihvp.client.uploads import tensor_bytes
from ihvp.errors import JobFailed
from ihvp.jobs.states import JobState
from ihvp.methods import TerminationStatus
from ihvp.wire import Influence, JobView

RIGHT_HAND_SIDES: Final = 16
ROWS: Final = 4
NEIGHBOURS: Final = 3
DAMPING: Final = 0.01
RTOL: Final = 1e-5

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Question:
    """What the demo asks about.

    Attributes:
        digits: The data.
        weights: The trained network.
        chosen: Indices of the test images, the hardest first.
        log_probabilities: What the network says of them, ``[k, 10]``.
    """

    digits: Digits
    weights: dict[str, Array]
    chosen: Array
    log_probabilities: Array


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of all that is written")
    parser.add_argument("--url", help="address of a service that runs already, instead of one of its own")
    given = parser.parse_args(arguments)
    return exit_status(partial(_run, given.out, given.url), given.out)


def _run(out: Path, elsewhere: str | None) -> int:
    began = time.monotonic()
    with ServiceElsewhere(elsewhere) if elsewhere else RunningService(out / "data") as service:
        question = _train()
        url = service.wait_until_ready()
        console.print(f"Service ready at {url}")
        with Client(url) as client:
            job, document = _submit(client, question)
            (out / "job.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            with ProgressBar(console) as bar:
                job = client.wait(job.id, on_progress=bar.show)
            if job.state is not JobState.Succeeded:
                raise JobFailed(f"The job ended {job.state.value}: {job.error.message if job.error else ''}")
            result = client.result(job.id)
            influence = client.influence(job.id, NEIGHBOURS)
    console.print(_certificates(result, question))
    console.print(_times(job, result))
    picture = out / "influence.png"
    draw(_picked(question, influence), picture)
    console.print(_what_it_shows(question, influence, picture), soft_wrap=True)
    good = all_converged(result, RIGHT_HAND_SIDES, RTOL)
    if not good:
        console.print(f"Not every certificate says converged at {RTOL:g}: see the table above.", style="red")
    console.print(f"Done in {time.monotonic() - began:.1f} s.\n")
    _say_how_by_hand(url, out, starts=elsewhere is None)
    return 0 if good else 1


def _train() -> Question:
    console.print(f"Training a network with layers of {', '.join(map(str, LAYERS))} on 1500 handwritten digits …")
    began = time.monotonic()
    digits = load_digits_split()
    weights = train_mlp(digits)
    log_probabilities = predict(weights, digits.test_images)
    losses = -log_probabilities[np.arange(len(digits.test_labels)), digits.test_labels]
    chosen = np.argsort(-losses)[:RIGHT_HAND_SIDES]
    accuracy = float((log_probabilities.argmax(axis=1) == digits.test_labels).mean())
    console.print(f"  {time.monotonic() - began:.1f} s; {accuracy:.1%} of the 297 test digits are read correctly.")
    return Question(digits, weights, chosen, log_probabilities[chosen])


def _submit(client: Client, question: Question) -> tuple[JobView, dict[str, Any]]:
    digits = question.digits
    model = client.register_model(
        "digits-mlp",
        architecture=ARCHITECTURE,
        weights=client.put_blob(tensor_bytes(question.weights)),
        loss="cross_entropy",
        data={"inputs": digits.train_images, "targets": digits.train_labels},
        dtype="float32",
    )
    points = {"inputs": digits.test_images[question.chosen], "targets": digits.test_labels[question.chosen]}
    document: dict[str, Any] = {
        "model": model.reference,
        "rhs": {"gradient_of": {name: client.put_tensor(array) for name, array in points.items()}},
        "method": "cg",
        "hessian_perturbation": DAMPING,
        "options": {"rtol": RTOL, "atol": 0.0},
        "influence": {"on": "training"},
        "tags": {"from": "demo"},
    }
    job = client.submit(**document)
    console.print(
        f"Submitted {job.id}: (H + {DAMPING:g}·I) x = b on {model.reference} ({model.num_params} parameters), "
        f"b = the loss gradients of the {RIGHT_HAND_SIDES} test digits it finds hardest",
        soft_wrap=True,
    )
    return job, document


def _certificates(result: SolveResult, question: Question) -> Table:
    table = Table(title="Certificates", title_justify="left")
    for column in ("test digit", "network says"):
        table.add_column(column)
    for column in ("status", "true relative residual", "iterations"):
        table.add_column(column, justify="right")
    labels = question.digits.test_labels[question.chosen]
    for entry, label, row in zip(result.certificate, labels, question.log_probabilities, strict=True):
        good = entry.status is TerminationStatus.Converged
        table.add_row(
            str(label),
            f"{row.argmax()} ({np.exp(row.max()):.0%})",
            Text(entry.status.value, style="green" if good else "red"),
            "not finite" if entry.relative_residual is None else f"{entry.relative_residual:.2e}",
            str(entry.iterations),
        )
    return table


def _times(job: JobView, result: SolveResult) -> Table:
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    if job.started_at is not None:
        table.add_row("waiting for a worker", f"{(job.started_at - job.created_at).total_seconds():.3f}")
    for phase, seconds in result.info.timings.items():
        table.add_row(phase, f"{seconds:.3f}")
    if job.finished_at is not None:
        table.add_row("submit to result", f"{(job.finished_at - job.created_at).total_seconds():.3f}", style="bold")
    return table


def _picked(question: Question, influence: Influence) -> list[TestDigit]:
    """The hardest test digits of different labels, with their neighbours."""
    digits = question.digits
    rows: dict[int, int] = {}
    for row, index in enumerate(question.chosen):
        rows.setdefault(int(digits.test_labels[index]), row)

    def neighbours(points: Any) -> list[Neighbour]:
        return [Neighbour(digits.train_images[p.index], int(digits.train_labels[p.index]), p.score) for p in points]

    return [
        TestDigit(
            image=digits.test_images[question.chosen[row]],
            label=label,
            predicted=int(question.log_probabilities[row].argmax()),
            confidence=float(np.exp(question.log_probabilities[row].max())),
            helpful=neighbours(influence.top[row].helpful[:NEIGHBOURS]),
            harmful=neighbours(influence.top[row].harmful[:NEIGHBOURS]),
        )
        for label, row in list(rows.items())[:ROWS]
    ]


def _what_it_shows(question: Question, influence: Influence, picture: Path) -> str:
    labels = question.digits.train_labels
    true = question.digits.test_labels[question.chosen]

    def sharing(kind: str) -> str:
        pairs = [
            (labels[point.index], label)
            for extremes, label in zip(influence.top, true, strict=True)
            for point in getattr(extremes, kind)[:NEIGHBOURS]
        ]
        return f"{sum(int(a == b) for a, b in pairs)} of {len(pairs)}"

    return (
        f"{picture} shows the training images behind {ROWS} of these digits: {sharing('helpful')} most helpful images "
        f"show the test image's own digit, and {sharing('harmful')} most harmful ones do."
    )


def _say_how_by_hand(url: str, out: Path, *, starts: bool) -> None:
    """Prints commands that can be pasted; rich must not wrap or mark them up."""
    ihvp = Path(sys.executable).parent / "ihvp"
    if ihvp.is_relative_to(Path.cwd()):
        ihvp = ihvp.relative_to(Path.cwd())
    port = url.rpartition(":")[2]
    job_file = shlex.quote(f"@{out / 'job.json'}")
    post = f"curl -s {url}/v1/jobs -H 'Content-Type: application/json' -d {job_file}"
    start = [
        "The same by hand. Start the service on the data that this demo left:",
        f"  {shlex.quote(str(ihvp))} up --data-dir {shlex.quote(str(out / 'data'))} --port {port}",
        "and in another terminal submit the job, watch it to its end, and read its result:",
    ]
    lines = [
        *(start if starts else ["The same by hand: submit the job, watch it to its end, and read its result:"]),
        f"  JOB=$({post} | grep -o 'job_[0-9A-Za-z]*' | head -1)",
        f"  curl -sN {url}/v1/jobs/$JOB/events",
        f"  curl -s {url}/v1/jobs/$JOB/result",
    ]
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
