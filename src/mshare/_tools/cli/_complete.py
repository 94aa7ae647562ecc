"""Completions of the shell besides commands and options: names of regions. May depend on: listing.

typer's shell functions put each completion on the command line without quotes, and in zsh they evaluate the
completions. A shell would run the command in a name like `$(command)`, which another user may have chosen. The shell
is therefore offered only names in which no character has a meaning to a shell.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from contextlib import suppress

PREFIX = "region:"
"""The text before the name of a region in `mshare cp`."""

_CUT = "_MSHARE_CUT"
_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@%+-]*", re.ASCII)


def region_names(incomplete: str) -> list[str]:
    """Return the names of regions that begin with `incomplete`. Costs a few system calls per region."""
    from ..._core import listing  # imported here: every command imports this module, and only the shell calls this

    with suppress(OSError):
        names = {found.entry.name for found in listing.records()}
        return sorted(name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name))
    return []


def region_sources(incomplete: str) -> list[str]:
    """Return `region:NAME` of each region that fits, or nothing for another word: the shell then offers files."""
    cut = os.environ.get(_CUT, "")
    word = cut + incomplete
    if not word.startswith(PREFIX):
        return []
    return [(PREFIX + name).removeprefix(cut) for name in region_names(word.removeprefix(PREFIX))]


def set_cut_prefix_aside(environment: MutableMapping[str, str]) -> None:
    """If the word that bash completes begins with `region:`, move these characters from `COMP_WORDS` to `_CUT`.

    bash cuts words at each character of `COMP_WORDBREAKS`, so that `region:we` is three words. typer would take them
    for three arguments. bash replaces only the last one.
    """
    words, at = environment.get("COMP_WORDS", "").split("\n"), int(environment.get("COMP_CWORD", 0))
    start = at - 1 if words[at : at + 1] == [":"] else at - 2
    if start > 0 and words[start : start + 2] == [PREFIX[:-1], ":"]:
        environment["COMP_WORDS"] = "\n".join([*words[:start], *words[start + 2 : at + 1]])
        environment["COMP_CWORD"] = str(start)
        environment[_CUT] = PREFIX
