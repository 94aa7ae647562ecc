"""Finds a kernel's complaints in its log. Pure: text in, lines out."""

from __future__ import annotations

import re
from typing import NamedTuple

FIRST_PROCESS = "mshare-vm: first user process"
TIME_LIMIT = "mshare-vm: time limit reached"

# Each pattern with the kernel source that prints it. Matched against the message, time stamp and level removed.
COMPLAINTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("warning", r"^WARNING: "),  # kernel/panic.c __warn, and lockdep's headlines
        ("bug", r"\bBUG: |^BUG at |^kernel BUG at "),  # lib/bug.c, mm/debug.c, mm/kasan, spinlock debugging
        ("oops", r"^Oops: |^Oops\b|^general protection fault|^int3: |^invalid opcode: |^traps: PANIC|^stack segment: "),
        ("page fault", r"^BUG: unable to handle|^Unable to handle kernel"),
        ("panic", r"Kernel panic - not syncing"),
        ("lockdep", r"^INFO: (lockdep|possible|trying to register)|possible (circular|recursive) locking"),
        ("lockdep", r"inconsistent lock state|DEBUG_LOCKS_WARN_ON"),
        ("rcu", r"rcu: INFO: .*(stall|detected)|^rcu_.*self-detected stall|suspicious RCU usage"),
        ("hang", r"^INFO: task .* blocked for more than|soft lockup|hard LOCKUP|^watchdog: BUG"),
        ("allocation", r"page allocation failure|page allocation stalls"),  # mm/page_alloc.c warn_alloc
        (
            "bad page",
            r"^Bad (page|rss-counter)|bad (page|pte|pmd|pud|pgd|p4d)\b|non-zero pgtables_bytes|nonzero mapcount",
        ),
        ("page", r"^page:.* (refcount|mapcount)|^page dumped because|page_table_check|^swap_(free|dup):"),
        ("atomic", r"scheduling while atomic|sleeping function called from invalid context|preempt_count .* exited"),
        ("leak", r"^kmemleak: .*new suspected|VFS: Busy inodes after unmount"),
        ("leak", r"^BUG .*: Objects remaining|^slab error|kmem_cache_destroy .*: Slab cache still has"),
        ("list", r"^list_(add|del) corruption|^refcount_t: |^percpu ref .*<= 0"),
        ("sanitizer", r"^ODEBUG: |^UBSAN: |^KASAN: |^KCSAN: |^KFENCE: "),
        ("trace", r"^Call Trace:|^RIP: 0010:"),  # safety net: a stack that no pattern above explains
    )
)

# mm/oom_kill.c prints its own stack. A process killed for lack of memory is not a kernel's complaint, and tests
# provoke such kills. The stack ends at its own mark. The limit is for a log that has lost the line with the mark.
_OOM, _OOM_END, _OOM_LINES = "invoked oom-killer: ", "</TASK>", 60
_FRAME = re.compile(r"^(\? )?[\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+")

# mm/page_isolation.c and mm/memory_hotplug.c describe a page that keeps a block of memory from being taken offline.
# The caller that asks for the block gets the answer. The reason is the last line of the description.
_DUMP, _DUMP_END = "page:", re.compile(r"^page dumped because: (.*)$")
_DUMP_REASONS = ("unmovable page", "migration failure", "isolation failed")

_PREFIX = re.compile(r"^(?:<[0-9]+>)?(?:\[\s*[0-9]+\.[0-9]+\](?:\[\s*[TC]\s*[0-9]+\])? ?)?")


class Complaint(NamedTuple):
    """One line that a kernel should not have printed; `number` counts from 1 in the log that was scanned."""

    kind: str
    number: int
    text: str


def message(line: str) -> str:
    """Return a log line without its level (`<4>`), time stamp and caller."""
    return _PREFIX.sub("", line, count=1).strip()


def scan(log: str) -> list[Complaint]:
    """Return every complaint in a kernel log (`dmesg -r`, `dmesg` or a serial console), in order.

    Reading stops at the guest's own mark for an expired time limit: the guest asked for the stacks after the mark.
    """
    found: list[Complaint] = []
    oom_until = 0
    dump = 0
    for number, line in enumerate(log.splitlines(), start=1):
        text = message(line)
        if TIME_LIMIT in text:
            break
        if _OOM in text:
            oom_until = number + _OOM_LINES
        elif text == _OOM_END:
            oom_until = 0
        if text.startswith(_DUMP):
            dump = number
        elif end := _DUMP_END.match(text):
            start, dump = dump, 0
            if start and end[1] in _DUMP_REASONS:
                found = [each for each in found if each.number != start]
                continue
        kind = next((name for name, pattern in COMPLAINTS if pattern.search(text)), None)
        if number <= oom_until and (kind == "trace" or _FRAME.match(text)):
            continue
        if kind is not None:
            found.append(Complaint(kind, number, text))
    return found


def excerpt(log: str, complaints: list[Complaint], before: int = 2, after: int = 25, limit: int = 120) -> list[str]:
    """Return the complaining lines and the lines around each, in order, each once. A WARN's text stands before it.

    `limit` bounds the lines in all.
    """
    lines = log.splitlines()
    wanted: list[int] = []
    for complaint in complaints:
        for index in range(max(complaint.number - 1 - before, 0), min(complaint.number + after, len(lines))):
            if not wanted or index > wanted[-1]:
                wanted.append(index)
    return [lines[index].rstrip() for index in wanted[:limit]]


# Documentation/admin-guide/tainted-kernels.rst. The bits out-of-tree (12), unsigned (13) and staging are no fault here.
TAINT_BAD = {
    1: "forced module",
    3: "forced rmmod",
    4: "machine check",
    5: "bad page",
    7: "oops",
    9: "warning",
    14: "soft lockup",
}


def taints(value: int) -> list[str]:
    """Return the names of the bad bits in `/proc/sys/kernel/tainted`."""
    return [name for bit, name in TAINT_BAD.items() if value >> bit & 1]
