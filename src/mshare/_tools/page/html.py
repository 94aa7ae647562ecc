"""The report as one HTML file that refers to nothing else. Pure. May depend on: pictures, scan, table, units, jinja2,
markupsafe.

Names are other people's: the template escapes everything but the pictures, whose texts XML's own writer has escaped,
and what could hide something (a newline, text direction) is shown as an escape. No script; a content security policy
forbids the browser to fetch or run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..._core.units import KIB, format_size
from ..scan.advice import Verdict, part
from ..scan.series import Growth, Point
from ..scan.show import remarks, table, totals
from ..scan.snapshot import Snapshot
from ..scan.survey import Survey
from ..table import printable
from .pictures import MOST, Picture, costs, over_time, savings

_LEAST_BYTES = 64 * KIB
_MOST_ROWS = 40


class Report(NamedTuple):
    """Everything on the page."""

    snapshot: Snapshot
    """The last one."""
    survey: Survey
    verdict: Verdict
    points: Sequence[Point]
    """One per snapshot, in order."""
    growth: Growth | None


def render(report: Report) -> bytes:
    """Return the page, UTF-8. The same report gives the same bytes."""
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["size"] = format_size
    environment.filters["printable"] = printable
    snapshot, survey, verdict = report.snapshot, report.survey, report.verdict
    page = environment.get_template("page.html").render(
        host=snapshot.system.host,
        kernel=snapshot.system.kernel,
        taken=f"{datetime.fromtimestamp(snapshot.taken, UTC):%Y-%m-%d %H:%M:%S} UTC",
        verdict=verdict,
        share=part(verdict.page_tables, verdict.memory) if verdict.memory else "",
        saved=part(verdict.saving, verdict.page_tables) if verdict.page_tables else "",
        processes=len(snapshot.processes),
        objects=sum(usage.object is not None for usage in survey.usages),
        growth=report.growth,
        snapshots=len(report.points),
        pictures={each.name: (each, Markup(each.wide), Markup(each.narrow)) for each in _pictures(report)},
        colours=MOST + 3,
        table=table(survey, least=_LEAST_BYTES, most=_MOST_ROWS),
        totals=totals(snapshot, survey),
        remarks=remarks(snapshot, survey),
        exact=survey.exact,
    )
    return page.encode("utf-8", "backslashreplace")


def _pictures(report: Report) -> list[Picture]:
    survey, verdict = report.survey, report.verdict
    pictures = [costs(survey, verdict)]
    if report.growth is not None:
        pictures.append(over_time(report.points, survey, verdict))
    if verdict.advice:
        pictures.append(savings(survey, verdict))
    return pictures
