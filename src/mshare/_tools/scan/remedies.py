"""Remedies for one object's page tables: the condition, the commands, the page-table bytes afterwards. Pure.
May depend on: case, mappings, programs, show, backend (the type).

The statements about transparent huge pages are from Documentation/admin-guide/mm/transhuge.rst. Predictions are the
arithmetic of `ObjectUsage.what_if`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .case import SHMEM_ENABLED, Case, Remedy, chosen, shell_word
from .mappings import collapsed_bytes, mappings, unaligned_pids
from .programs import java, oracle, postgresql
from .show import label

if TYPE_CHECKING:
    from ..._core.backend import Backend


COLLAPSE = "mshare collapse"
"""The name of the remedy that needs no restart."""
MEMORY = ("tmpfs", "memfd", "SysV", "anonymous")
"""Kinds of objects that consist of memory, which the kernel can gather into 2 MiB pages."""


def remedies(case: Case, backends: Sequence[Backend]) -> tuple[Remedy, ...]:
    """Return the remedies, the one that suits the program first; none for objects that are shared or huge already.
    `backends`: those on which regions may be advised, best first; the simplest is advised first."""
    match case.program, case.kind:
        case "PostgreSQL", _:
            found = postgresql(case)
        case "Oracle", _:
            found = oracle(case)
        case "Java", "memfd":
            found = java(case)
        case _, "memfd" | "SysV" | "anonymous":
            found = _internal(case, backends)
        case _, "tmpfs":
            found = _tmpfs(case, backends)
        case _, "file":
            found = _copies(case, backends)
        case _:
            found = iter(())
    first, *others = (*found, *_collapse(case)) or (None,)
    if first is None:
        return ()
    return tuple(sorted((first, *others), key=lambda each: (each is not first, each.name != COLLAPSE)))


def _collapse(case: Case) -> Iterator[Remedy]:
    """Yield what needs no restart: 2 MiB pages of the memory as it is, where the mappings are aligned for them."""
    if case.kind not in MEMORY or chosen(case.snapshot.system.settings.get(SHMEM_ENABLED, "")) == "deny":
        return
    every = mappings(case.snapshot) if case.everywhere is None else case.everywhere
    things = [usage.object for usage in case.usages if usage.object is not None]
    those = [each for thing in things for each in every.get(thing, ())]
    aligned = sum(each.aligned for each in those)
    if not aligned:
        return
    yield Remedy(
        COLLAPSE,
        f"No restart, no setting; Linux 6.1 or newer. {aligned} of {len(those)} mappings are at addresses aligned to "
        "2 MiB, and only these change. It lasts as long as the memory, not beyond a restart of the program. It needs "
        "free memory of 2 MiB at a time, and processes wait for a block while the kernel copies the block.",
        tuple(f"sudo mshare collapse {shell_word(label(thing))}  # shows first, and asks" for thing in things),
        case.now,
        sum(
            collapsed_bytes(usage, unaligned_pids(every.get(usage.object, ())))
            for usage in case.usages
            if usage.object is not None
        ),
        "tried by a test of ours, with PostgreSQL 15: 1 GiB, 20 busy clients",
    )


def _internal(case: Case, backends: Sequence[Backend]) -> Iterator[Remedy]:
    """Memory on the kernel's own tmpfs: one setting for all of it."""
    value = chosen(case.snapshot.system.settings.get(SHMEM_ENABLED, ""))
    if value:
        on = value in ("always", "within_size", "force")
        commands = (
            (f"# {SHMEM_ENABLED} is {value} already", "# restart the programs that map it")
            if on
            else (
                f"echo within_size | sudo tee {SHMEM_ENABLED}  # was {value}",
                "# restart the programs that map it; the setting is gone after a reboot",
            )
        )
        yield Remedy(
            "transparent huge pages",
            "Memory made from then on, of all programs (memfd, SysV, shared anonymous), as far as the kernel finds "
            "2 MiB in one piece. Memory used in small scattered parts takes more of it. Where the program can call "
            "madvise(MADV_HUGEPAGE), the value advise is enough and changes nothing for others.",
            commands,
            case.now,
            case.costs(lambda costs: costs.leaves_2m),
            "documented by Linux; not tried",
        )
    yield from _regions(case, backends)


def _tmpfs(case: Case, backends: Sequence[Backend]) -> Iterator[Remedy]:
    thing = case.usages[0].object
    settings = case.snapshot.system.settings
    if thing is not None and not thing.region and chosen(settings.get(SHMEM_ENABLED, "")):
        where = (
            "/dev/shm" if thing.path.startswith("/dev/shm/") else f'"$(findmnt -no TARGET -T {shell_word(thing.path)})"'
        )
        yield Remedy(
            "2 MiB pages on its tmpfs",
            "Files made from then on that get their size first (ftruncate, fallocate), as far as the kernel finds "
            "2 MiB in one piece; files that grow as they are written need huge=always. To be done where the programs "
            "see the mount (inside their container). To keep it, add it in /etc/fstab.",
            (
                f"sudo mount -o remount,huge=within_size {where}",
                "# create the file again (its content keeps 4 KiB pages) and restart the programs that map the file",
            ),
            case.now,
            case.costs(lambda costs: costs.leaves_2m),
            "tried by a test of ours, on Linux 6.18",
        )
    yield from _copies(case, backends)


def _copies(case: Case, backends: Sequence[Backend]) -> Iterator[Remedy]:
    """A file's content as a region of mshare."""
    thing = case.usages[0].object
    if thing is None:
        return
    source = f"region:{thing.region}" if thing.region else thing.path
    name = (f"{thing.region}-2" if thing.region else _region_name(thing.path))[:200]
    yield from _regions(case, backends, source=None if thing.deleted and not thing.region else source, name=name)


def _regions(
    case: Case, backends: Sequence[Backend], *, source: str | None = None, name: str = "NAME"
) -> Iterator[Remedy]:
    size = sum(usage.size for usage in case.usages)
    region = shell_word(f"region:{name}")
    what = (
        f"The program must be yours to change. The copy takes {size >> 20} MiB of memory; changes of the file do "
        "not reach it."
        if source is not None
        else "The program must be yours to change."
    )

    def commands(backend: str) -> tuple[str, str]:
        make = (
            f"mshare cp {shell_word(source)} {region} --backend {backend}"
            if source is not None
            else f"mshare create {shell_word(name)} {size} --backend {backend}"
        )
        return make, f"# in the program, in place of its own mapping: mshare.attach({name!a})"

    for backend in reversed(backends):
        able = backend.capabilities
        if able.offer is not None:
            yield Remedy(
                able.offer.title,
                f"{what} {able.offer.condition}",
                (*able.offer.setup, *commands(backend.name)),
                case.now,
                case.costs_on(able),
                able.offer.evidence,
            )


def _region_name(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.rpartition("/")[2]).strip(".-") or "NAME"
