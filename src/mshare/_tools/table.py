"""Tables for a terminal, and text that is safe there. Pure. May depend on: nothing.

Names are chosen by others and may hold newlines or escape sequences.
"""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """Cells ready to be printed."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    """Columns that hold numbers, to be set flush right."""
    fold: int = 0
    """The column that is folded if the terminal is too narrow."""


def printable(text: str) -> str:
    r"""Return `text` with every character that could move a cursor or hide something as an escape (`\n`, `\x1b`,
    `\u202e`), on one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
