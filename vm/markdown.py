"""Tables in Markdown. Pure: cells in, lines out. May depend on: nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Yield a table's lines. `right` holds the numbers, from 0, of the columns that are aligned right."""
    yield _row(headers)
    yield "|" + "".join("---:|" if column in right else "---|" for column in range(len(headers)))
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
