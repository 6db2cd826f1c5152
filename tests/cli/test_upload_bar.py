"""The line that shows a large upload: on a terminal, and nowhere else."""

from __future__ import annotations

import io

from rich.console import Console

from ihvp.cli.upload_bar import UploadBar

MIB = 2**20


def drawn(*, terminal: bool) -> str:
    file = io.StringIO()
    with UploadBar(Console(file=file, force_terminal=terminal, width=100)) as bar:
        for sent in (10, 30, 20, 40):  # it falls where a line drops
            bar.show("weights.safetensors", sent * MIB, 40 * MIB)
    return file.getvalue()


def test_a_terminal_shows_how_far_each_file_is() -> None:
    text = drawn(terminal=True)
    assert "weights.safetensors" in text
    assert "40.0/40.0 MiB" in text


def test_a_pipe_gets_nothing() -> None:
    assert drawn(terminal=False) == ""
