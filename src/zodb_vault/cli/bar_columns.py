"""The columns of a progress bar that depend on its unit: bytes, blobs or objects."""

from __future__ import annotations

from rich.progress import DownloadColumn, ProgressColumn, Task, TransferSpeedColumn
from rich.text import Text


class AmountColumn(ProgressColumn):
    """How much is done, of how much."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        """Return such as ``1.2/3.4 GB`` or ``12/34 blobs``."""
        unit = task.fields["unit"]
        if unit == "B":
            return self._bytes.render(task)
        total = "?" if task.total is None else f"{int(task.total):,}"
        return Text(f"{int(task.completed):,}/{total} {unit}", style="progress.download")


class RateColumn(ProgressColumn):
    """How much is done in a second."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = TransferSpeedColumn()

    def render(self, task: Task) -> Text:
        """Return such as ``5.6 MB/s`` or ``78 blobs/s``."""
        unit = task.fields["unit"]
        if unit == "B":
            return self._bytes.render(task)
        speed = task.finished_speed or task.speed
        return Text("?" if speed is None else f"{speed:,.0f} {unit}/s", style="progress.data.speed")
