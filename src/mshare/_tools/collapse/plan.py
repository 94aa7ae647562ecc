"""Which objects can get 2 MiB pages while programs use them, and what stands in the way. Pure.
May depend on: scan.

*Facts*, tried on Linux 6.18 (docs/decisions/0031-collapse.md): MADV_COLLAPSE works on memory (tmpfs, memfd, SysV,
shared anonymous) whatever `shmem_enabled` and the mount option `huge=` are, except `shmem_enabled=deny`. The block must
lie at a multiple of 2 MiB both in the object and in the addresses of the process. One process is enough: the kernel
takes the page tables of all aligned mappings away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from ..scan.case import SHMEM_ENABLED, chosen
from ..scan.mappings import Mapping, collapsed_bytes, mappings, unaligned_pids
from ..scan.remedies import MEMORY
from ..scan.show import label
from ..scan.snapshot import Object, Snapshot
from ..scan.survey import ObjectUsage, Survey


class Refusal(NamedTuple):
    """Why an object stays as it is, and what can be done."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


class Candidate(NamedTuple):
    """An object that somebody maps shared."""

    thing: Object
    usage: ObjectUsage
    mappings: tuple[Mapping, ...]
    """All that cover a block or more."""
    refusal: Refusal | None

    @property
    def name(self) -> str:
        return label(self.thing)

    @property
    def aligned(self) -> tuple[Mapping, ...]:
        return tuple(each for each in self.mappings if each.aligned)

    @property
    def blocks(self) -> int:
        """The number of blocks of 2 MiB that the mappings cover from the object's start."""
        return max((each.blocks.stop for each in self.mappings), default=0)

    @property
    def reachable(self) -> int:
        """How many blocks aligned mappings cover."""
        total = after = 0
        for numbers in sorted({each.blocks for each in self.aligned}, key=lambda numbers: numbers.start):
            total += max(0, numbers.stop - max(after, numbers.start))
            after = max(after, numbers.stop)
        return total

    @property
    def unaligned_pids(self) -> frozenset[int]:
        """The processes that would keep their page tables."""
        return unaligned_pids(self.mappings)

    def after(self, part: float) -> int:
        """Return about how many bytes of page tables there are once that `part` of what is touched is 2 MiB pages."""
        return collapsed_bytes(self.usage, self.unaligned_pids, part)


def candidates(snapshot: Snapshot, survey: Survey, pids: Collection[int] | None = None) -> tuple[Candidate, ...]:
    """Return the objects that any of `pids` maps shared (None: any process), the most expensive first."""
    every = mappings(snapshot)
    setting = chosen(snapshot.system.settings.get(SHMEM_ENABLED, ""))
    return tuple(
        Candidate(usage.object, usage, found, _refusal(usage.object, found, setting))
        for usage in survey.usages
        if usage.object is not None and (usage.sharers if pids is None else usage.sharers.intersection(pids))
        for found in (every.get(usage.object, ()),)
    )


def named(candidates: Collection[Candidate], name: str) -> Iterator[Candidate]:
    """Yield those that `name` means: what `mshare scan` calls the object, its path, region or inode."""
    number = name.removeprefix("#")
    for each in candidates:
        thing = each.thing
        names = {each.name, thing.path, each.name.removesuffix(" (deleted)"), thing.region, f"region:{thing.region}"}
        if name in names - {"", "region:"} or (number.isdecimal() and thing.ino == int(number)):
            yield each


def denied() -> Refusal:
    """Return what to say where the administrator forbids 2 MiB pages of memory."""
    return Refusal(
        f"{SHMEM_ENABLED} is deny, which forbids 2 MiB pages of shared memory",
        f"if they may be allowed: echo never | sudo tee {SHMEM_ENABLED} (mshare collapse works with never)",
    )


def _refusal(thing: Object, those: tuple[Mapping, ...], setting: str) -> Refusal | None:
    if thing.kind == "hugetlb":
        return Refusal("the object consists of huge pages of hugetlb already", "nothing needs to be done")
    if thing.kind == "msharefs":
        return Refusal("the object is on msharefs, where processes share page tables", "nothing needs to be done")
    if thing.kind not in MEMORY:
        what = "a device's memory" if thing.kind == "device" else "a file on disk"
        return Refusal(
            f"the object is {what}, and mshare collapse is for objects in memory",
            "see mshare report for what helps files",
        )
    if not those:
        return Refusal("no mapping covers a block of 2 MiB", "objects this small cost one page of page tables")
    if setting == "deny":
        return denied()
    if not any(each.aligned for each in those):
        return Refusal(
            "no process maps the object at an aligned address, and mappings cannot be moved while a program runs",
            unaligned_remedy(thing),
        )
    return None


def unaligned_remedy(thing: Object) -> str:
    """Return what makes the kernel, or the program, map an object at a multiple of 2 MiB the next time."""
    if thing.kind == "tmpfs":
        before = "remount the tmpfs with huge=advise (mount -o remount,huge=advise /dev/shm)"
    else:
        before = f"set shmem_enabled to advise (echo advise | sudo tee {SHMEM_ENABLED})"
    return f"{before} before the program starts the next time, or start the program with mshare run"
