"""Page tables against clients, one line per mechanism, and where memory ends: records in, SVG out. May depend on: run,
units, matplotlib (extra `report`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ..._core.units import GIB, MIB, format_size
from .run import Run

_COLOURS = ("#c0392b", "#e67e22", "#2980b9", "#16a085", "#2c3e50", "#8e44ad")


def draw(runs: Sequence[Run], *, title: str) -> bytes | None:
    """Return the picture as SVG, or None if no run has anything to show. Text stays text, and the same runs give the
    same bytes.

    Raises `ModuleNotFoundError` without matplotlib.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    usable = [run for run in runs if run.unavailable is None and run.samples]
    if not usable:
        return None
    unit, name = (GIB, "GiB") if usable[0].limit_bytes >= GIB else (MIB, "MiB")
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "mshare", "font.size": 10}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for run, colour in zip(usable, _COLOURS, strict=False):
            base = run.base_line()
            clients = [sample.clients for sample in run.grown()]
            tables = [
                (sample.page_tables_bytes - base.at(sample.clients) + base.start) / unit for sample in run.grown()
            ]
            label = f"{run.label}: {run.reached:,} clients" + (", then out of memory" if run.oom_kills else "")
            axes.plot(clients, tables, color=colour, linewidth=2, label=label)
            if run.oom_kills:
                last = clients[-1], tables[-1]
                axes.plot(*last, marker="x", markersize=10, markeredgewidth=2.5, color=colour)
                end = last[1] + run.per_client_bytes() * (run.wanted - last[0]) / unit
                axes.plot((last[0], run.wanted), (last[1], end), color=colour, linestyle=":", linewidth=1)
        limit, region = usable[0].limit_bytes, usable[0].size_bytes
        axes.axhline(limit / unit, color="black", linewidth=1)
        axes.annotate(f"memory: {format_size(limit)}", (0, limit / unit), xytext=(4, 3), textcoords="offset points")
        left = (limit - region) / unit
        axes.axhline(left, color="black", linewidth=1, linestyle="--")
        axes.annotate(
            f"memory less the region: {format_size(limit - region)}",
            (usable[0].wanted, left), xytext=(-4, 3), textcoords="offset points", ha="right",
        )  # fmt: skip
        axes.set(
            xlabel="clients that have read all of the region", ylabel=f"page tables it causes, {name}", title=title
        )
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.97), fontsize=8)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return picture.getvalue()
