"""An object and the processes that map it, held open for the time of the work. May depend on: plan, geometry, linux,
scan, errors.

*Facts.* A pid can be another process's a moment later, and a process can map something else at the same address.
MADV_COLLAPSE changes no content, so the worst that can happen is a 2 MiB page where nobody asked for one.
*Decision.* A pidfd per process that is used; the pidfd is opened first, and the process must still live when its
mapping was found. Before each block, the link in /proc/PID/map_files says whether the mapping is still there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..._core.errors import AccessDeniedError
from ..._core.geometry import PMD
from ..._core.linux import incore, libc, proc
from ..._core.linux.descriptors import Descriptor
from ..scan.mappings import Mapping
from .plan import Candidate

RIGHTS = "CAP_SYS_PTRACE, CAP_SYS_NICE, CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH"
"""The rights that root has and a service needs."""


class Target:
    """An open object. Use `opened`."""

    def __init__(self, candidate: Candidate, stack: ExitStack) -> None:
        self.candidate = candidate
        self._stack = stack
        self._pidfds: dict[int, int] = {}
        self._left = sorted(candidate.aligned, key=lambda each: (-len(each.blocks), each.pid, each.start))
        """Aligned mappings that may still be there, those that cover most first."""
        self._file = -1
        self._open()

    def _open(self) -> None:
        for mapping in tuple(self._left):
            try:
                file = self._stack.enter_context(Descriptor(_link(mapping), os.O_RDONLY))
                self._pidfd(mapping.pid)
            except (FileNotFoundError, ProcessLookupError):
                self._left.remove(mapping)
                continue
            except PermissionError as error:
                raise _denied(mapping.pid) from error
            if os.fstat(file).st_ino == self.candidate.thing.ino:
                self._file = file
                return
            self._left.remove(mapping)
        raise ProcessLookupError(errno.ESRCH, f"no process maps {self.candidate.name} any more")

    def _pidfd(self, pid: int) -> int:
        if pid not in self._pidfds:
            self._pidfds[pid] = self._stack.enter_context(Descriptor.made_by(os.pidfd_open, pid))
        return self._pidfds[pid]

    def blocks(self) -> list[incore.Block]:
        """Return what is in memory of the blocks that an aligned mapping covers; not all that are empty."""
        reachable = {each.blocks for each in self.candidate.aligned}
        size = self.candidate.blocks * PMD
        found = [
            each for each in incore.blocks(self._file, size) if any(each.number in numbers for numbers in reachable)
        ]
        memory = proc.memory_fields()
        if memory.get("SwapFree", 0) < memory.get("SwapTotal", 0):
            return [incore.with_swapped(self._file, each) for each in found]
        return found

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """The aligned mappings that may still be there."""
        return tuple(self._left)

    @property
    def alive(self) -> bool:
        """Some process may still map the object at an aligned address."""
        return bool(self._left)

    def carrier(self, number: int) -> Mapping | None:
        """Return an aligned mapping that covers the block and is still there; None if no process has one."""
        for mapping in tuple(self._left):
            if number not in mapping.blocks:
                continue
            try:
                self._pidfd(mapping.pid)
                os.lstat(_link(mapping))
            except (FileNotFoundError, ProcessLookupError):
                self._left.remove(mapping)
            else:
                return mapping
        return None

    def collapse(self, mapping: Mapping, number: int) -> None:
        """Make a 2 MiB page of the block. Raises `OSError` with the kernel's errno."""
        addr = mapping.start + number * PMD - mapping.offset
        try:
            libc.process_madvise(self._pidfd(mapping.pid), addr, PMD, libc.MADV_COLLAPSE)
        except PermissionError as error:
            raise _denied(mapping.pid) from error


@contextmanager
def opened(candidate: Candidate) -> Iterator[Target]:
    """Open a candidate for the time of a `with` block.

    Raises `AccessDeniedError` without the rights, `ProcessLookupError` if no process maps the object any more.
    """
    with ExitStack() as stack:
        yield Target(candidate, stack)


def _link(mapping: Mapping) -> str:
    return f"/proc/{mapping.pid}/map_files/{mapping.start:x}-{mapping.end:x}"


def _denied(pid: int) -> AccessDeniedError:
    return AccessDeniedError(
        f"this process may not change the memory of process {pid}", f"run it as root, or with {RIGHTS}"
    )
