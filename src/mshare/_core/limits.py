"""Limits that a system call has reached, named in the error. May depend on: errors, units, linux.

The kernel says only EMFILE, ENFILE or ENOMEM. This module finds the limit after the failure.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import wraps

from .errors import DescriptorLimitError, MshareError, NoSpaceError
from .linux import memory, proc
from .units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar

    _P = ParamSpec("_P")
    _R = TypeVar("_R")

_MAPPINGS_OF_THE_KERNEL = 2
"""Lines of /proc/self/maps that do not count against `vm.max_map_count`: [vsyscall], and the last mapping allowed."""


def descriptor_limit(error: OSError) -> DescriptorLimitError:
    """Return the exception for `error`, which is EMFILE or ENFILE."""
    if error.errno == errno.ENFILE:
        named = DescriptorLimitError(
            "this machine may have no more open files (fs.file-max, /proc/sys/fs/file-max)",
            "have programs close some, or raise that limit: sudo sysctl fs.file-max=N",
        )
        named.errno = errno.ENFILE
        return named
    limit = memory.descriptor_limit()
    return DescriptorLimitError(
        f"this process may have no more than {limit} descriptors (RLIMIT_NOFILE)",
        "close some, or raise that limit (`ulimit -n`)",
    )


def reraise(error: OSError) -> None:
    """Raise `error` again if a limit on descriptors is its cause, for callers that take other errors as an answer."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise error


def named(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make `call` raise `DescriptorLimitError` if the kernel refuses a descriptor."""

    @wraps(call)
    def naming(*arguments: _P.args, **options: _P.kwargs) -> _R:
        try:
            return call(*arguments, **options)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and not isinstance(error, MshareError):
                raise descriptor_limit(error) from error
            raise

    return naming


def mapping_refused(error: OSError, length: int, addr: int) -> NoSpaceError:
    """Return the exception for a failed mmap of `length` bytes at `addr` with ENOMEM or EAGAIN."""
    what = f"the kernel refused to map {format_size(length)} at {addr:#x}"
    if error.errno == errno.EAGAIN:
        limit = format_size(memory.locked_limit())
        return NoSpaceError(
            f"{what}: this process locks all that it maps (mlockall), and may lock {limit} (RLIMIT_MEMLOCK)",
            "raise that limit (`ulimit -l`), or call munlockall first",
        )
    limits = [*_mapping_count(), *_address_space(length)]
    if limits:
        problems, hints = zip(*limits, strict=True)
        return NoSpaceError(f"{what}: {' and '.join(problems)}", " and ".join(hints))
    return NoSpaceError(what, "check `ulimit -v`, vm.max_map_count, free huge pages and free memory")


def _mapping_count() -> list[tuple[str, str]]:
    try:
        count, most = sum(1 for _ in proc.maps()), proc.max_map_count()
    except (OSError, MemoryError):  # no /proc, or only a part of it
        return []
    if count < most - _MAPPINGS_OF_THE_KERNEL:
        return []
    return [
        (
            f"this process has {count:,} mappings, and may have {most:,} (vm.max_map_count)",
            f"unmap some, or raise that limit: sudo sysctl vm.max_map_count={2 * most}",
        )
    ]


def _address_space(length: int) -> list[tuple[str, str]]:
    limit = memory.address_space_limit()
    try:
        used = proc.status_fields().get("VmSize", 0)
    except OSError:
        return []
    if limit is None or used + length <= limit:
        return []
    return [
        (
            f"this process has mapped {format_size(used)} of addresses, and may map {format_size(limit)} (RLIMIT_AS)",
            "raise that limit (`ulimit -v`)",
        )
    ]


def is_out_of_room(error: OSError) -> bool:
    """Tell whether the kernel had no memory, file-system space or pool pages left."""
    return error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG)
