"""The kernel's messages when it kills for lack of memory. Pure: text in, lines out. May depend on: nothing."""

from __future__ import annotations

import re

_TOLD = re.compile(
    r"invoked oom-killer|pagetables:|^Mem-Info|^memory: usage|constraint=|[Kk]illed process|^Normal free:|^DMA32 free:"
)
_RECORD = re.compile(r"^[0-9]+,[0-9]+,[0-9]+,[^;]*;")


def lines_of(kmsg: str) -> list[str]:
    """Return the messages in text from /dev/kmsg, without their prefixes. Each line of a message is a message here.

    Source: Documentation/ABI/testing/dev-kmsg.
    """
    records = (line for line in kmsg.split("\n") if _RECORD.match(line))
    return [line.strip() for record in records for line in _RECORD.sub("", record, count=1).split("\\x0a")]


def oom_excerpt(lines: list[str], limit: int = 12) -> list[str]:
    """Return the important lines of the first kill: the process that needed memory, the memory (in pages, if there is
    no unit), the victim. Empty if no process was killed."""
    found: list[str] = []
    for line in lines:
        if _TOLD.search(line):
            found.append(line)
        if "illed process" in line or len(found) == limit:
            return found
    return []
