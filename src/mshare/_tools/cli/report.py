"""`mshare report`: who pays for page tables, as a page with advice. May depend on: _console, _exits, _extras, _files,
_snapshots, _tools.scan, page, table, backends, units, jinja2, matplotlib, rich, typer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from ..._core import backends
from ..._core.units import format_age, format_size, parse_age
from ..scan.advice import Verdict, judge, verdict_json
from ..scan.series import Point, growth, point, series_json
from ..scan.show import survey_json
from ..scan.snapshot import Snapshot
from ..scan.survey import Survey, survey
from ..table import printable
from ._console import AsJson, console, print_json, print_line
from ._exits import UsageError
from ._extras import extra
from ._files import is_stdout, write
from ._snapshots import Exact, Pids, User, load, take

EXAMPLES = """
mshare report
sudo mshare report --exact -o server.html
sudo mshare report --for 10m --every 30s
mshare report monday.snapshot tuesday.snapshot
mshare report --json
"""

_DEFAULT = Path("mshare-report.html")
_STEPS = 20


def command(
    snapshots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SNAPSHOT", help="Saved by mshare scan --save. Default: now.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help=f"The page; - is stdout. Default: {_DEFAULT}."),
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Record for so long: 90s, 10m, 2h.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="One snapshot every so often. Default: 20 in all.")
    ] = None,
    exact: Exact = False,
    pids: Pids = None,
    user: User = None,
    as_json: AsJson = False,
) -> None:
    """Write a page about page tables here: who pays, what to do.

    The page is one HTML file with pictures and the commands to apply. The report covers this moment, a recording
    (--for; Ctrl-C ends the recording early and still writes the page), or saved snapshots. With --json the result is
    JSON, and there is no page unless -o names one. docs/report.md says how the advice is derived. Needs the extra
    `report`.
    """
    if snapshots and (duration or exact or pids or user):
        raise UsageError("--for, --exact, --pid and --user choose what is read from this machine: not with snapshots")
    if every is not None and duration is None:
        raise UsageError("--every says how often within --for: say that, too")
    to_stdout = output is not None and is_stdout(str(output))
    if as_json and to_stdout:
        raise UsageError(f"--json and -o {printable(str(output))} both want stdout: name a file")
    target = output or (None if as_json else _DEFAULT)
    if target is not None:
        _need_extra()
    if snapshots:
        last, points = _saved(snapshots)
    else:
        seconds = 0.0 if duration is None else parse_age(duration)
        step = max(1.0, seconds / _STEPS) if every is None else parse_age(every)
        if every is not None and not 0 < step <= seconds:
            raise UsageError("--every takes a time above 0 and no longer than --for")
        last, points = _recorded(lambda: take(None, exact=exact, pids=pids, user=user), seconds, step)
    found = survey(last)
    verdict = judge(last, found, backends.ALL)
    if target is not None:
        _write(target, last, found, verdict, points)
    if as_json:
        changed = growth(points, verdict.titles)
        print_json(
            {
                **survey_json(last, found, least=0),
                "verdict": verdict_json(verdict),
                "growth": None if changed is None else changed._asdict(),
                "series": series_json(points),
            }
        )
    elif target is not None and not to_stdout:
        _tell(verdict, points)
        print_line("")
        print_line(f"The page is in {printable(str(target))}")


def _need_extra() -> None:
    """Raise `MissingExtraError` before a recording that could then not be shown."""
    with extra("report"):
        import jinja2
        import matplotlib  # noqa: F401

        del jinja2


def _saved(paths: list[Path]) -> tuple[Snapshot, list[Point]]:
    """Return the last snapshot in time, and a point for each."""
    last: Snapshot | None = None
    points = []
    for path in paths:
        snapshot = load(path)
        points.append(point(snapshot, survey(snapshot)))
        if last is None or snapshot.taken >= last.taken:
            last = snapshot
    assert last is not None
    return last, sorted(points, key=lambda each: each.taken)


def _recorded(read: Callable[[], Snapshot], seconds: float, step: float) -> tuple[Snapshot, list[Point]]:
    """Take snapshots for `seconds`, one every `step`, and return the same as `_saved`. Ctrl-C ends the recording, or
    the command if there is no snapshot yet."""
    start = time.monotonic()
    last = read()
    points = [point(last, survey(last))]
    count = 1 + int(seconds / step) if step > 0 else 1
    if count == 1:
        return last, points
    shown = sys.stderr.isatty()
    try:
        if not shown:
            print(f"recording for {format_age(seconds)}; Ctrl-C ends it and writes", file=sys.stderr, flush=True)
        while len(points) < count and time.monotonic() - start < seconds:
            _wait(start + step * len(points), f"{len(points)} of {count}, {format_size(points[-1].page_tables)}", shown)
            snapshot = read()
            points.append(point(snapshot, survey(snapshot)))
            last = snapshot
    except KeyboardInterrupt:
        pass
    return last, points


def _wait(until: float, state: str, shown: bool) -> None:
    """Wait for the next snapshot, and say so on a terminal. (Reading has its own bar.)"""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console(stderr=True), transient=True, disable=not shown) as bar:
        bar.add_task(f"recording: {state} now; Ctrl-C ends it and writes")
        time.sleep(max(0.0, until - time.monotonic()))


def _write(target: Path, last: Snapshot, found: Survey, verdict: Verdict, points: list[Point]) -> None:
    from ..page.html import Report, render

    write(str(target), render(Report(last, found, verdict, points, growth(points, verdict.titles))))


def _tell(verdict: Verdict, points: list[Point]) -> None:
    for sentence in verdict.sentences:
        print_line(sentence)
    changed = growth(points, verdict.titles)
    for sentence in () if changed is None else changed.sentences:
        print_line(sentence)
    for each in verdict.advice:
        first = each.remedies[0]
        print_line("")
        print_line(f"{each.title}: {first.name}, saves {format_size(first.saving)}", style="bold")
        for line in first.commands:
            print(f"  {printable(line)}")  # never folded: to be copied
