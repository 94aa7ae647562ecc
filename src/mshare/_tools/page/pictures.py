"""The report's pictures, as inline SVG. Pure. May depend on: scan, table, units, matplotlib.

*Facts.* Names in them are other people's; matplotlib would typeset what stands between two `$`, and SVG knows no
control characters. A page holds several pictures, and matplotlib gives the parts of each the same ids. *Decision.*
Every text passes `printable`, typesetting is off, the SVG is parsed and its ids are made the page's own. Colours are
those of the page's style sheet, so that dark mode also has them. The same records give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..._core.units import format_size
from ..scan.advice import Verdict
from ..scan.series import Identity, Point, identity
from ..scan.show import label
from ..scan.survey import ObjectUsage, Survey
from ..table import printable

WIDE, NARROW = 7.2, 3.6
"""Inches: a page for a desk and for a telephone. 72 CSS pixels per inch are drawn."""

MOST = 6
"""Objects that get a colour of their own."""

_OTHERS = MOST, MOST + 1, MOST + 2
_INK, _FAINT, _PAPER = "#010101", "#020202", "#030303"
_SERIES = tuple(f"#0{index:x}0a0a" for index in range(MOST + 3))
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--line)",
    _PAPER: "var(--paper)",
    **{colour: f"var(--c{index})" for index, colour in enumerate(_SERIES)},
}
"""Colours that nothing else has, and the style sheet's names for them."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mshare",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _FAINT,
    "grid.color": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_UNITS = {1: "bytes", 1 << 10: "KiB", 1 << 20: "MiB", 1 << 30: "GiB", 1 << 40: "TiB"}


class Picture:
    """One picture, drawn once for wide and once for narrow pages."""

    def __init__(self, name: str, title: str, text: str, drawings: Sequence[str]) -> None:
        self.name = name
        self.title = title
        self.text = text
        """The picture in words, for readers who do not see it. Printable."""
        self.wide, self.narrow = drawings


def costs(survey: Survey, verdict: Verdict) -> Picture:
    """Return the page tables as they are, shared, with 2 MiB and with 1 GiB leaves, stacked by object."""
    shown, others, private = _chosen(survey, verdict)
    layers = [(_name(usage, verdict), _four(usage)) for usage in shown]
    layers.append((f"{len(others)} other objects", [sum(each) for each in zip(*map(_four, others), strict=True)]))
    layers.append(("private memory", _four(private) if private else [0] * 4))
    rest = verdict.page_tables - sum(usage.now.likely for usage in survey.usages)
    layers.append(("not readable, or the kernel's", [max(0, rest)] * 4))
    colours = [*range(len(shown)), *_OTHERS]
    kept = [(name, sizes, _SERIES[colour]) for (name, sizes), colour in zip(layers, colours, strict=True) if any(sizes)]
    sums = [sum(sizes[column] for _, sizes, _ in kept) for column in range(4)]
    rows = ("now", "shared", "2 MiB leaves", "1 GiB leaves")

    def draw(axes: Axes) -> None:
        unit = _axis(axes, max(sums, default=0))
        left = [0.0] * 4
        for name, sizes, colour in kept:
            widths = [size / unit for size in sizes]
            axes.barh(
                range(4), widths, left=left, color=colour, label=name, height=0.62, linewidth=0.3, edgecolor=_PAPER
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for row, total in enumerate(sums):
            axes.annotate(
                format_size(total), (left[row], row), (4, 0), textcoords="offset points", va="center", color=_INK
            )
        axes.set_xlim(0, 1.22 * max(left) or 1)
        axes.set_yticks(range(4), rows)
        axes.invert_yaxis()

    text = "; ".join(f"{row}: {format_size(total)}" for row, total in zip(rows, sums, strict=True))
    return _picture("costs", "Page tables by object, as they are and as they could be", text, draw, 2.3, len(kept))


def over_time(points: Sequence[Point], survey: Survey, verdict: Verdict) -> Picture:
    """Return the page tables over time, stacked by object: two `points` at least, and the last one's survey."""
    shown, _, _ = _chosen(survey, verdict)
    keys = [identity(usage.object) for usage in shown]
    start = points[0].taken
    span = points[-1].taken - start
    unit_s, unit_name = (1, "seconds") if span < 180 else (60, "minutes") if span < 10_800 else (3600, "hours")
    times = [(each.taken - start) / unit_s for each in points]
    layers = [
        (_name(usage, verdict), [each.objects.get(key, 0) for each in points])
        for usage, key in zip(shown, keys, strict=True)
    ]
    layers.append(("other objects", [_rest(each, keys) for each in points]))
    layers.append(("private memory", [each.objects.get(None, 0) for each in points]))
    known = [sum(each.objects.values()) for each in points]
    layers.append(
        ("not readable, or the kernel's", [max(0, p.page_tables - k) for p, k in zip(points, known, strict=True)])
    )
    colours = [*range(len(shown)), *_OTHERS]
    kept = [(name, sizes, _SERIES[colour]) for (name, sizes), colour in zip(layers, colours, strict=True) if any(sizes)]
    totals = [each.page_tables for each in points]

    def draw(axes: Axes) -> None:
        unit = _axis(axes, max(totals), upright=True)
        axes.stackplot(
            times,
            [[size / unit for size in sizes] for _, sizes, _ in kept],
            colors=[colour for _, _, colour in kept],
            labels=[name for name, _, _ in kept],
        )
        axes.plot(
            times,
            [total / unit for total in totals],
            color=_INK,
            linewidth=1.6,
            marker="o" if len(times) < 40 else "",
            markersize=3,
        )
        axes.set_xlim(times[0], times[-1])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"{unit_name} since {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M:%S} UTC")

    text = (
        f"from {format_size(totals[0])} to {format_size(totals[-1])}, "
        f"least {format_size(min(totals))}, most {format_size(max(totals))}"
    )
    return _picture("growth", "Page tables over time", text, draw, 2.6, len(kept))


def savings(survey: Survey, verdict: Verdict) -> Picture:
    """Return what each remedy would save, for the first objects that have any."""
    rows: list[tuple[str, int | None, str]] = []
    names = [printable(label(usage.object)) for usage in _chosen(survey, verdict)[0]]
    for each in verdict.advice[:MOST]:
        rows.append((_short(each.title, 40), None, ""))
        colour = _SERIES[names.index(each.objects[0]) if each.objects[0] in names else MOST]
        rows += [(remedy.name, remedy.saving, colour) for remedy in each.remedies]
    most = max(saving or 0 for _, saving, _ in rows)

    def draw(axes: Axes) -> None:
        unit = _axis(axes, most)
        for row, (name, saving, colour) in enumerate(rows):
            here: Any = {"va": "center", "color": _INK, "annotation_clip": False, "in_layout": False}
            if saving is None:
                axes.annotate(name, (0, row), weight="bold", **here)
                continue
            axes.barh(row + 0.2, saving / unit, color=colour, height=0.42)
            axes.annotate(format_size(saving), (saving / unit, row + 0.2), (4, 0), textcoords="offset points", **here)
            axes.annotate(name, (0, row - 0.22), size=9, **here)
        axes.set_xlim(0, 1.22 * most / unit)
        axes.set_ylim(len(rows) - 0.4, -0.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)

    text = "; ".join(
        f"{_short(each.title, 40)}: {remedy.name} saves {format_size(remedy.saving)}"
        for each in verdict.advice[:MOST]
        for remedy in each.remedies
    )
    return _picture("savings", "What each remedy would save", text, draw, 0.2 + 0.42 * len(rows), 0)


def _chosen(survey: Survey, verdict: Verdict) -> tuple[list[ObjectUsage], list[ObjectUsage], ObjectUsage | None]:
    """Return the objects with a colour (1 % of all at least), the others, and private memory."""
    objects = [usage for usage in survey.usages if usage.object is not None]
    private = next((usage for usage in survey.usages if usage.object is None), None)
    count = sum(100 * usage.now.likely >= verdict.page_tables for usage in objects[:MOST])
    return objects[:count], objects[count:], private


def _name(usage: ObjectUsage, verdict: Verdict) -> str:
    """Return what to call an object: as the advice on it does, if there is any."""
    name = printable(label(usage.object))
    return _short(verdict.titles.get(name, name))


def _four(usage: ObjectUsage) -> list[int]:
    """Return an object's costs now, shared, with 2 MiB and 1 GiB leaves; what cannot be shared stays as it is, and
    nothing is drawn larger than it is now."""
    what_if = usage.what_if()
    now = usage.now.likely
    return [now] * 4 if what_if is None else [now, *(min(now, each) for each in what_if[1:])]


def _rest(point: Point, keys: Sequence[Identity | None]) -> int:
    return sum(size for key, size in point.objects.items() if key is not None and key not in keys)


def _short(text: str, most: int = 34) -> str:
    """Return a name that fits, printable: the end of a path tells more than its start."""
    text = printable(text)
    return text if len(text) <= most else "…" + text[1 - most :]


def _axis(axes: Axes, most_bytes: float, *, upright: bool = False) -> int:
    """Label the axis of bytes and return what to divide them by."""
    unit = max((each for each in _UNITS if each <= most_bytes), default=1)
    axis = axes.yaxis if upright else axes.xaxis
    axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    (axes.set_ylabel if upright else axes.set_xlabel)(f"page tables, {_UNITS[unit]}")
    axis.grid(linewidth=0.5)
    axes.set_axisbelow(True)
    return unit


def _picture(name: str, title: str, text: str, draw: Any, height: float, legend: int) -> Picture:
    drawings = []
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # widths of characters that its font lacks; the browser's has them
        for kind, width in (("wide", WIDE), ("narrow", NARROW)):
            columns = 2 if kind == "wide" else 1
            legend_inches = 0.21 * -(-legend // columns) + 0.1 if legend else 0.0
            figure = Figure(figsize=(width, height + 0.6 + legend_inches), layout="constrained")
            FigureCanvasSVG(figure)
            axes = figure.add_subplot()
            draw(axes)
            if legend:
                figure.legend(
                    loc="outside lower left",
                    ncols=columns,
                    frameon=False,
                    fontsize=9,
                    handlelength=1.0,
                    columnspacing=1.2,
                )
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            drawings.append(_inline(buffer.getvalue(), f"{name}-{kind}", title, text))
    return Picture(name, title, text, drawings)


def _inline(raw: bytes, prefix: str, title: str, text: str) -> str:
    """Return matplotlib's SVG as an element of the page: its own ids, the page's colours, a title and a description."""
    root = ElementTree.fromstring(raw)
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata":
            root.remove(child)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{prefix}-{value}")
            elif key == f"{{{_XLINK}}}href":
                del element.attrib[key]
                element.set("href", value.replace("#", f"#{prefix}-", 1))
            else:
                linked = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", value)
                element.set(key, re.sub(r"#0[0-9a-f]{5}", lambda found: _VARIABLES.get(found[0], found[0]), linked))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("class", prefix.rpartition("-")[2])
    root.set("role", "img")
    root.set("aria-label", f"{title}. {text}")
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")
