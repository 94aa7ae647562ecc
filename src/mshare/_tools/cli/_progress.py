"""Progress: bars and steps, on stderr. May depend on: _console, rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

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


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Give a callable that shows the step being done on stderr: in one line on a terminal, else a line each."""
    if not sys.stderr.isatty():
        yield lambda step: print(step, file=sys.stderr, flush=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        yield lambda step: progress.update(task, description=step)
