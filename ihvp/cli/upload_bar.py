"""Large uploads as one live line on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ihvp.live_bar import LiveBar

__all__ = ["UploadBar"]


class UploadBar(LiveBar):
    """Shows what ``Client.put_blob`` reports; a context manager. It is silent where nobody looks.

    Args:
        console: Where to draw; by default standard error, so that standard output stays a program's.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        super().__init__(bar)
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, sent: int, total: int) -> None:
        """Draws how far a file has come."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=sent)
        self._bar.start()
