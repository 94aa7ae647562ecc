"""A case for a remedy: an object, its processes, and their program. Pure. May depend on: snapshot, survey,
mappings, backend (the type)."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .mappings import Mapping
from .snapshot import Object, Process, Snapshot
from .survey import ObjectUsage, WhatIf

if TYPE_CHECKING:
    from ..._core.backend import Capabilities

ENABLED = "/sys/kernel/mm/transparent_hugepage/enabled"
SHMEM_ENABLED = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"


class Remedy(NamedTuple):
    """One way to make an object's page tables smaller. An object can have only one of its remedies."""

    name: str
    """The name of the remedy, to be read after "with": huge pages."""
    condition: str
    """The remedy's condition, and its cost."""
    commands: tuple[str, ...]
    """Lines for a shell, in order. Lines that begin with # are steps that no command can do."""
    now: int
    """Likely page-table bytes of the object."""
    predicted: int
    """Page-table bytes after the remedy."""
    evidence: str
    """Our own measurements of the remedy."""
    huge_pages: int = 0
    """Pages that the remedy takes out of the pool of huge pages."""

    @property
    def saving(self) -> int:
        """Bytes; 0 if the remedy would cost more."""
        return max(0, self.now - self.predicted)


class Case(NamedTuple):
    """An object, or several that only one remedy can help together (the segments of one Oracle instance)."""

    usages: tuple[ObjectUsage, ...]
    """Usages of objects that a process maps shared."""
    users: tuple[Process, ...]
    snapshot: Snapshot
    promised: int = 0
    """Huge pages that the remedies for other cases take."""
    everywhere: dict[Object, tuple[Mapping, ...]] | None = None
    """The shared mappings of all objects, if they are known already."""

    @property
    def now(self) -> int:
        return sum(usage.now.likely for usage in self.usages)

    @property
    def kind(self) -> str:
        thing = self.usages[0].object
        return "" if thing is None else thing.kind

    @property
    def program(self) -> str:
        """PostgreSQL, Oracle or Java, by the commands of most processes that map the object; else ""."""
        names = Counter(_program(process.command) for process in self.users)
        name, count = names.most_common(1)[0] if names else ("", 0)
        shared = self.kind in _SHARED_MEMORY.get(name, ())
        return name if shared and 2 * count > len(self.users) else ""

    def costs(self, which: Callable[[WhatIf], int]) -> int:
        """Return the sum of one of the costs that `ObjectUsage.what_if` computes."""
        return sum(which(each) for usage in self.usages if (each := usage.what_if()) is not None)

    def costs_on(self, able: Capabilities) -> int:
        """Return the costs in regions on a backend that is so `able`."""
        return self.costs(lambda costs: costs.on(able))


_SHARED_MEMORY = {"PostgreSQL": ("anonymous", "SysV"), "Oracle": ("SysV",), "Java": ("memfd", "tmpfs")}
"""The kinds of objects in which these programs have their memory."""


def _program(command: str) -> str:
    if command in ("postgres", "postmaster"):
        return "PostgreSQL"
    if command.startswith(("ora_", "oracle")):
        return "Oracle"
    return "Java" if command == "java" else ""


def chosen(setting: str) -> str:
    """Return the value in brackets of a setting under /sys: madvise of `always [madvise] never`; "" if none."""
    found = re.search(r"\[(\w+)\]", setting)
    return found[1] if found else ""


def shell_word(text: str) -> str:
    r"""Return `text` as one word of bash, all of it printable: `$'a\x0ab'` for what holds a newline."""
    if text.isprintable():
        return shlex.quote(text)
    raw = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in raw) + "'"
