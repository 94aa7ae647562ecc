"""Progress bars, on stderr and on a terminal only. May depend on: nothing of mshare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ._console import console

Step = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@contextmanager
def bars(*labels: str) -> Iterator[tuple[Step, ...]]:
    """Give one callable per label; each shows its bar from its first call on."""
    if not sys.stderr.isatty():
        yield tuple(_silent for _ in labels)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:

        def step_of(label: str) -> Step:
            task = progress.add_task(label, visible=False)

            def step(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, visible=True)

            return step

        yield tuple(step_of(label) for label in labels)


def _silent(done: int, total: int) -> None:
    del done, total
