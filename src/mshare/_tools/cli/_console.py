"""The printing of every command: tables and lines for people, JSON for programs.

Rich's markup, emoji codes and highlighting are off everywhere: names are data. Lines are folded on a terminal only, so
that `mshare ls | grep` sees one region per line.
May depend on: _complete, table, backends, errors, rich, typer.
"""

from __future__ import annotations

import grp
import json
import math
import os
import pwd
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..._core import backends
from ..._core.errors import InvalidAddressError, InvalidArgumentError
from ..table import Table
from ._complete import region_names

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: exact bytes, one document on stdout.")]
RegionName = Annotated[
    str, typer.Argument(metavar="NAME", help="The region's name.", show_default=False, autocompletion=region_names)
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The region's name.", show_default=False)]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help=f"{', '.join(backend.name for backend in backends.ALL)}. Default: $MSHARE_BACKEND, or the best.",
    ),
]

_UNFOLDED = 4096
_LEAST_FOLDED = 8
"""Columns that are left for the part of a table that is folded."""
LEAST_TEXT = 24
"""Columns for a text beside its label, however narrow the terminal: an address or a size is not broken."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the error pass: rich would end the process with 1 here."""
        raise  # noqa: PLE0704 - rich calls this from its handler


def console(*, stderr: bool = False, least_width: int = 0) -> Console:
    """Return a console that prints what it is given and nothing else, as wide as the terminal or `least_width`."""
    stream = sys.stderr if stderr else sys.stdout
    folded = stream.isatty() or "COLUMNS" in os.environ
    found = _Console(
        file=stream, markup=False, emoji=False, highlight=False, width=None if folded else _UNFOLDED, soft_wrap=False
    )
    found.width = max(found.width, least_width)
    return found


def print_json(document: Any) -> None:
    """Print one JSON document, ASCII only, so that no name can reach the terminal raw."""
    print(json.dumps(document, indent=2))


def print_table(table: Table) -> None:
    """Print a table, without lines around it. Only the column `table.fold` is ever folded. In a terminal that is too
    narrow for the others the lines are longer than the terminal, because a number that is cut is another number."""
    rich = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    needed = len(table.headers) - 1
    for index, header in enumerate(table.headers):
        folds = index == table.fold
        needed += _LEAST_FOLDED if folds else max(map(cell_len, [header, *(row[index] for row in table.rows)]))
        rich.add_column(
            Text(header),
            justify="right" if index in table.right else "left",
            overflow="fold",
            no_wrap=not folds,
            min_width=_LEAST_FOLDED if folds else None,
        )
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    print_trimmed(rich, needed)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print pairs of label and text, one below the other."""
    rich = RichTable.grid(padding=(0, 2, 0, 0))
    rich.add_column(no_wrap=True)
    rich.add_column(overflow="fold")
    for label, text in fields:
        rich.add_row(Text(label, style="bold"), Text(text))
    print_trimmed(rich, max((cell_len(label) for label, _ in fields), default=0) + 2 + LEAST_TEXT)


def print_line(text: str, *, style: str = "") -> None:
    """Print one line, folded between words on a terminal."""
    print_trimmed(Text(text, style=style, overflow="ignore"), LEAST_TEXT)


def print_trimmed(what: RichTable | Text, least_width: int = 0) -> None:
    """Print without the blanks that rich fills lines up with, folded at the terminal's width or at `least_width`."""
    out = console(least_width=least_width)
    with out.capture() as captured:
        out.print(what)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def owner_name(uid: int) -> str:
    """Return the user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the group's name, or the number of one that has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def parse_group(text: str) -> int:
    """Return the gid of the group that `text` names, or is. Raises `InvalidArgumentError`."""
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        if text.isascii() and text.isdecimal() and int(text) < 2**32 - 1:
            return int(text)
    raise InvalidArgumentError(f"there is no group {text!r}", "use the name of a group (getent group), or its gid")


def parse_mode(text: str) -> int:
    """Return the permission bits that `text` has in octal. Raises `InvalidArgumentError`."""
    try:
        return int(text, 8)
    except ValueError:
        raise InvalidArgumentError(f"invalid mode {text!r}", "use octal digits, such as 0600 or 644") from None


def not_nan(seconds: float) -> float:
    """Return the number. Raises typer's error for NaN, which passes typer's own check of the least and the most."""
    if math.isnan(seconds):
        raise typer.BadParameter("NaN is not a number of seconds")
    return seconds


def parse_address(text: str) -> int:
    """Return the address `text` stands for, decimal or 0x…. Raises `InvalidAddressError`."""
    try:
        return int(text, 0)
    except ValueError:
        raise InvalidAddressError(
            f"invalid address {text!r}", "use hexadecimal digits, such as 0x200000000000"
        ) from None
