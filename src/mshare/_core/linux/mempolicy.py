"""The memory policy of a thread: the nodes from which the kernel takes the pages that the thread makes. May depend on:
files, libc.

Facts: set_mempolicy(2) is about the calling thread, and all memory that the thread takes while the policy is set.
Python runs signal handlers, which may raise, between steps of bytecode, but none between the end of a `try` block and
a call of a C function that is ready to be called.
Decision: `under` makes the call that restores the policy ready beforehand.

Sources: mm/mempolicy.c, Documentation/admin-guide/mm/numa_memory_policy.rst.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from functools import partial

from .files import read_bytes
from .libc import raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar

    _P = ParamSpec("_P")
    _R = TypeVar("_R")

PREFERRED, BIND, INTERLEAVE = 1, 2, 3
_WEIGHTED_INTERLEAVE = 6
_MODE = 0xFF
"""The bits of a policy without its flags (MPOL_F_STATIC_NODES and others)."""
_SET, _GET, _MOVE_PAGES = 238, 239, 279
_MEMS_ALLOWED, _MOVE = 4, 2
_BITS = 1024
"""MAX_NUMNODES of every distribution."""
_Mask = ctypes.c_ulong * (_BITS // 64)
_PLACE = "/sys/devices/system/node"

_libc = ctypes.CDLL(None, use_errno=True)


def _get(flags: int) -> tuple[int, ctypes.Array[ctypes.c_ulong]]:
    mode, mask = ctypes.c_int(), _Mask()
    asked = None if flags else ctypes.byref(mode)
    if _libc.syscall(ctypes.c_long(_GET), asked, mask, ctypes.c_ulong(_BITS + 1), None, ctypes.c_ulong(flags)):
        raise_errno()
    return mode.value, mask


def _setter(mode: int, mask: ctypes.Array[ctypes.c_ulong]) -> Callable[[], int]:
    return partial(_libc.syscall, ctypes.c_long(_SET), ctypes.c_int(mode), mask, ctypes.c_ulong(_BITS + 1))


def _nodes(mask: ctypes.Array[ctypes.c_ulong]) -> tuple[int, ...]:
    return tuple(node for node in range(_BITS) if mask[node // 64] >> node % 64 & 1)


def allowed() -> tuple[int, ...]:
    """Return the nodes with memory that this process may use (its cpuset). Raises `OSError`: ENOSYS if the kernel was
    built without nodes, EPERM if a filter on system calls forbids the question."""
    return _nodes(_get(_MEMS_ALLOWED)[1])


def interleaved() -> tuple[int, ...]:
    """Return the nodes over which this thread's policy spreads pages; () if the policy is another one."""
    try:
        mode, mask = _get(0)
    except OSError:  # no nodes, or no right to ask: the kernel's default
        return ()
    return _nodes(mask) if mode & _MODE in (INTERLEAVE, _WEIGHTED_INTERLEAVE) else ()


def under(mode: int, nodes: Collection[int], call: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
    """Return `call(*arguments)`, called with a policy for this thread. The policy before is there again afterwards.

    Raises the errors of `call`, and `OSError` if the kernel refuses the policy.
    """
    restore = _setter(*_get(0))
    try:
        mask = _Mask()
        for node in nodes:
            mask[node // 64] |= 1 << node % 64
        if _setter(mode, mask)():
            raise_errno()
        return call(*arguments, **named)
    finally:
        restore()


def listed(which: str) -> tuple[int, ...]:
    """Return the nodes in one list of the kernel: `online`, or `has_memory`. () if the kernel has no such list."""
    try:
        text = read_bytes(f"{_PLACE}/{which}").decode()
    except OSError:
        return ()
    ranges = (part.split("-") for part in text.strip().split(",") if part)
    return tuple(node for ends in ranges for node in range(int(ends[0]), int(ends[-1]) + 1))


def meminfo(node: int) -> dict[str, int]:
    """Return the fields of a node's meminfo, in bytes. Raises `OSError` if there is no such node."""
    lines = read_bytes(f"{_PLACE}/node{node}/meminfo").decode().splitlines()
    words = [line.split() for line in lines]
    return {each[2].rstrip(":"): int(each[3]) * 1024 for each in words if len(each) == 5 and each[4] == "kB"}


def free_huge_pages(node: int) -> int:
    """Return the free 2 MiB pages of the pool on a node."""
    return int(read_bytes(f"{_PLACE}/node{node}/hugepages/hugepages-2048kB/free_hugepages"))


def nodes_of(addresses: range) -> list[int]:
    """Return the node of the page at each address of this process; a negative errno if no page is mapped there. Raises
    `OSError`: EPERM if a filter on system calls forbids the question."""
    count = len(addresses)
    status = (ctypes.c_int * count)()
    pages = (ctypes.c_void_p * count)(*addresses)
    if _libc.syscall(ctypes.c_long(_MOVE_PAGES), 0, ctypes.c_ulong(count), pages, None, status, 0) < 0:
        raise_errno()
    return list(status)


def move(addresses: list[int], node: int) -> None:
    """Move the pages at some addresses to a node, as far as only this process maps them. Raises `OSError`."""
    count = len(addresses)
    pages, targets = (ctypes.c_void_p * count)(*addresses), (ctypes.c_int * count)(*[node] * count)
    status = (ctypes.c_int * count)()
    if _libc.syscall(ctypes.c_long(_MOVE_PAGES), 0, ctypes.c_ulong(count), pages, targets, status, _MOVE) < 0:
        raise_errno()
