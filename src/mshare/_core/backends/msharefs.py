"""Backend `msharefs`: our kernel module's file system, where processes share the page tables themselves.
May depend on: _files, shm (files are made in the same way), backend, linux, errors, geometry, record.

Facts: the tables that map a file belong to the file. A process points one entry per GiB at these tables, so mappings
and their addresses come in whole GiB, and may reach beyond the end of the file. `fallocate` also fills the tables, so a
process that attaches takes no fault. The kernel knows an address for each file, and the attached processes of every
program. Source: kernel/uapi/linux/msharefs.h, docs/kernel.md.
"""

from __future__ import annotations

import errno
import os
import stat

from ..backend import Availability, Capabilities, Costs, LeafChoice, Offer, Wish
from ..errors import BackendUnavailableError, InvalidAddressError
from ..geometry import PAGE, PMD, PUD, USER_END, page_tables, round_up
from ..linux import ioctl, libc, module
from ..record import Record
from ._files import overridden_root, take, writable
from .shm import Shm

DEFAULT_ROOT = "/sys/fs/mshare"
"""The module makes this directory."""
MODULE = "mshare"
_MAGIC = 0x6D736872
_LOAD = "sudo mshare module load"
NO_MODULES = "use a distribution kernel for x86_64 (outside a container: the host's), or another backend"


def is_mounted(root: str = DEFAULT_ROOT) -> bool:
    """Tell whether an msharefs is mounted on `root`."""
    return os.path.exists(root) and libc.file_system_magic(root) == _MAGIC  # usually absent, and the question is cheap


def _not_admitted(root: str) -> Availability:
    """Return the answer for a user whom the directory does not admit, and how root admits a group."""
    status = os.stat(root)
    admitted = f"mode {stat.S_IMODE(status.st_mode):04o}, owner uid {status.st_uid}, group gid {status.st_gid}"
    group = '"$(id -gn)"'
    if root == DEFAULT_ROOT:
        remedy = f"{_LOAD} --group {group}"
    else:
        remedy = f"sudo chgrp {group} {root} && sudo chmod 1775 {root}"
    return Availability(False, f"uid {os.geteuid()} may make no regions in {root} ({admitted})", remedy)


class Msharefs(Shm):
    """Files on msharefs, reserved with `fallocate`."""

    name = "msharefs"
    capabilities = Capabilities(
        leaf_size=PAGE,
        file_unit=PAGE,
        map_unit=PUD,
        sparse=True,
        handle_rights=True,
        shared_tables="all but one: 4 KiB per process and 512 GiB",
        needs="our kernel module (mshare module load), msharefs on /sys/fs/mshare",
        offer=Offer(
            "page tables shared by mshare's kernel module",
            "The module has run under QEMU only: not where you cannot afford a crash.",
            (f'{_LOAD} --group "$(id -gn)"',),
            "measured by our tests, in virtual machines",
        ),
        other_leaf_size=PMD,
    )

    def root(self) -> str | None:
        """/sys/fs/mshare if msharefs is mounted there. Without a mount the directory is empty or absent."""
        return overridden_root("msharefs") or (DEFAULT_ROOT if is_mounted() else None)

    def availability(self) -> Availability:
        root = self.root()
        if root is not None and is_mounted(root):
            may = writable(root, _not_admitted(root))
            return Availability(True, f"the module is loaded, {root} is writable") if may.usable else may
        if root is not None and root != DEFAULT_ROOT:
            return Availability(
                False,
                f"no msharefs is mounted on {root}",
                f"sudo mkdir -p {root} && sudo mount -t msharefs none {root}",
            )
        if module.is_loaded(MODULE):
            return Availability(False, f"the module is loaded, but nothing is mounted on {DEFAULT_ROOT}", _LOAD)
        if (obstacle := module.obstacle()) is not None:
            return Availability(False, obstacle, NO_MODULES)
        return Availability(False, "the kernel module mshare is not loaded", _LOAD)

    def take(self, fd: int, start: int, end: int, addr: int) -> None:
        del addr
        take(fd, start, end)

    def choose_leaf(self, fd: int, wish: Wish) -> LeafChoice:
        """2 MiB for regions that reserve their memory, if the mount allows that (`huge=`). A sparse region would take
        512 times the memory with each touch."""
        wanted = wish.leaf_size or (PMD if wish.reserve and wish.size_bytes >= PMD else PAGE)
        asked = "as asked" if wish.leaf_size else "all memory is reserved" if wanted == PMD else ""
        if ioctl.huge(fd, on=wanted == PMD):
            if wanted == PAGE and not asked:
                asked = "it is small" if wish.size_bytes < PMD else "it takes memory with each touch"
            return LeafChoice(wanted, f"{'2 MiB' if wanted == PMD else '4 KiB'} leaves: {asked}")
        if wish.leaf_size == PMD:
            root = self.root()
            raise BackendUnavailableError(
                f"the msharefs on {root} has no pages of 2 MiB", f"sudo mount -o remount,huge=advise {root}"
            )
        return LeafChoice(PAGE, "4 KiB leaves: the mount has huge=never" if wanted == PMD else "")

    def charge(self, length: int) -> int:
        """`size=` bounds pages and page tables together: 0.4 % more than the pages alone. The first page of a 2 MiB
        block pays for two PTE pages, as there are two trees. The first page of a unit pays for two PMD pages and for
        the module's own record."""
        return length + (round_up(length, PMD) // PMD * 2 + round_up(length, PUD) // PUD * 3) * PAGE

    def costs(self, size_bytes: int, processes: int) -> Costs:
        tables = page_tables(size_bytes, leaf_size=PAGE)
        own = tables.pud_pages * PAGE  # the entries that point at the region's tables, one per GiB
        return Costs(
            0,
            tables.pte_pages * PAGE,
            own,
            tables.bytes - own + own * processes,
            "all tables but the topmost belong to the region, so in total they count once (twice, if some attach "
            "read-only and others read-write). Leaves of 2 MiB make these tables 513 times smaller (mount option "
            "huge=).",
        )

    def announce(self, fd: int, addr: int) -> None:
        try:
            ioctl.set_base(fd, addr)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise InvalidAddressError(
                f"the kernel lets nobody attach this region at {addr:#x}",
                "choose another multiple of 1 GiB, lower down",
            ) from error

    def adopt(self, fd: int, status: os.stat_result) -> Record | None:
        facts = ioctl.region_facts(fd)
        size = status.st_size
        if facts is None or facts.unit_bytes != PUD or size <= 0:
            return None
        if not 0 < facts.base < facts.base + round_up(size, PUD) <= USER_END or facts.base % PUD:
            return None  # the file has grown since the address was chosen, or none was free
        return Record(
            size_bytes=size,
            addr=facts.base,
            leaf_size=PMD if facts.flags & ioctl.HUGE and size >= PMD else PAGE,
            map_unit=PUD,
            created_ns=status.st_ctime_ns,  # made then or before: the file system keeps no time of birth
            backend=self.name,
            reason="made by a program without this library",
            reserved=facts.memory_bytes >= size,
        )

    def attached(self, fd: int) -> bool:
        facts = ioctl.region_facts(fd)
        return facts is not None and facts.attachments > 0
