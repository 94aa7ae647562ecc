"""Keeps the last test run of each kernel series, and the page that shows them. Pure but for `save`.

May depend on: markdown.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from . import markdown

Document = dict[str, dict[str, Any]]
_KEPT = (
    *("kernel", "outcome", "reason", "stage", "tests", "failed", "skipped", "complaints"),
    *("attempts", "boot_seconds", "total_seconds"),
)
INTRODUCTION = """\
# The module on every supported kernel

Each kernel runs `tests/kernel` in a guest. A run passed if every test passed, no test was skipped, the log holds
no complaint (`vm/dmesg.py`: WARN, BUG, oops, lockdep, bad page, ...), and the module was unloaded at the end.
`make test-kernels` runs every kernel and writes this page. Each row names the commit and the day of its run.
"""


def series(release: str) -> str:
    """Return the key of a kernel's row, such as `6.12`, or `6.12 debug` for a kernel that was built here."""
    match = re.match(r"[0-9]+\.[0-9]+", release)
    number = match[0] if match else release
    return f"{number} debug" if release.endswith("-debug") else number


def merged(document: Document, item: dict[str, Any], facts: dict[str, Any]) -> Document:
    """Return the document with this run (`report.as_object`) and the facts of its machine in the run's row."""
    row = {name: item[name] for name in _KEPT if name in item} | facts
    rows = document | {series(item["kernel"]): row}
    return dict(sorted(rows.items(), key=lambda pair: [int(part) for part in re.findall("[0-9]+", pair[0])]))


def _log(row: dict[str, Any]) -> str:
    if row["complaints"]:
        return f"{len(row['complaints'])} complaints, the first: `{row['complaints'][0]['text']}`"
    return "clean" if row["outcome"] in ("passed", "failed") else row["outcome"]


def as_markdown(document: Document) -> str:
    """Return the page."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for row in document.values():
        tests = row.get("tests", 0)
        bad = [*row.get("failed", ()), *row.get("skipped", ())]
        boot = "-" if row["boot_seconds"] is None else f"{row['boot_seconds']:.0f} s"
        cells = (
            *(row["kernel"], row["outcome"], f"{tests - len(bad):,} of {tests:,}", _log(row), boot),
            *(f"{row['total_seconds']:,.0f} s", row["commit"], row["date"]),
        )
        rows.append(cells)
        if row["outcome"] != "passed":
            notes.append(f"- {row['kernel']}: {row['reason']}")
        notes += [f"- {row['kernel']}: {name.splitlines()[0]}" for name in bad]  # a message can have many lines
        if row["arguments"]:
            notes.append(f"- {row['kernel']}: not the usual run, but one with `{row['arguments']}`.")
        if row["attempts"] > 1:
            notes.append(f"- {row['kernel']}: the first machine was lost before its first process (an emulator race).")
    machines = dict.fromkeys(f"{row['host']}, {row['qemu']}" for row in document.values())
    headers = ("kernel", "result", "tests passed", "kernel log", "boot", "in all", "commit", "day")
    lines = [
        INTRODUCTION,
        *markdown.table(headers, rows, right={2, 4, 5}),
        "",
        *notes,
        *([""] if notes else []),
        f"Machine: {'; '.join(machines)}. The processor is emulated: times say little.",
    ]
    return "\n".join(lines) + "\n"


def save(prefix: Path, item: dict[str, Any], facts: dict[str, Any]) -> None:
    """Put one run into PREFIX.json, and write PREFIX.md from all runs in that file."""
    data, text = prefix.with_name(prefix.name + ".json"), prefix.with_name(prefix.name + ".md")
    document = merged(json.loads(data.read_text()) if data.exists() else {}, item, facts)
    data.write_text(json.dumps(document, indent=1) + "\n")
    text.write_text(as_markdown(document))
