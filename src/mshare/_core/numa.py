"""The memory nodes on which new memory shall lie: the argument `numa` of `create` and `populate`. May depend on:
linux, errors, units, typed.

A placement is checked before anything is made. `Placement.run` sets the policy for one call.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from .errors import AccessDeniedError, BackendUnavailableError, InvalidArgumentError
from .linux import mempolicy, mounts
from .typed import NamedTuple
from .units import format_list, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar

    _P = ParamSpec("_P")
    _R = TypeVar("_R")

Numa = int | str | None
"""A node's number, `"interleave"` for all nodes in turn, or None for the policy that the calling thread has."""
INTERLEAVE = "interleave"


class Placement(NamedTuple):
    """A checked argument `numa`. Without nodes, the thread's own policy stays."""

    node: int | None = None
    """The one node that has to have all memory."""
    nodes: tuple[int, ...] = ()

    def run(self, call: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
        """Return `call(*arguments)`; the memory that the call makes lies on the nodes."""
        if not self.nodes:
            return call(*arguments, **named)
        mode = mempolicy.INTERLEAVE if self.node is None else mempolicy.BIND
        return mempolicy.under(mode, self.nodes, call, *arguments, **named)

    def check_file_system(self, device: int) -> None:
        """Raise `BackendUnavailableError` if the file system has a policy of its own, which would win."""
        if not self.nodes:
            return
        mount = next((each for each in mounts.mounts() if each.dev == device), None)
        options = () if mount is None else mount.options
        policy = next((option for option in options if option.startswith("mpol=")), None)
        if mount is not None and policy is not None:
            raise BackendUnavailableError(
                f"{mount.mount_point} is mounted with {policy}, which decides where its memory lies",
                f"omit numa=, or: sudo mount -o remount,mpol=default {mount.mount_point}",
            )


def check(numa: Numa) -> Placement:
    """Return the placement that `numa` means on this machine.

    Raises `InvalidArgumentError` for another string, for a node that the machine does not have or that has no memory,
    and for one that this process may not use; `BackendUnavailableError` if the kernel has no memory nodes, and
    `AccessDeniedError` if a filter on system calls forbids memory policies.
    """
    if numa is None:
        return Placement()
    if isinstance(numa, str) and numa != INTERLEAVE:
        raise InvalidArgumentError(f"invalid numa {numa!r}", f"use the number of a node, {INTERLEAVE!r} or None")
    node = None if isinstance(numa, str) else whole(numa, "a node")
    try:
        allowed = mempolicy.allowed()
        mempolicy.under(mempolicy.INTERLEAVE, allowed, int)  # a filter may forbid the change alone
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise BackendUnavailableError(
                "this kernel has no memory nodes (CONFIG_NUMA)", "omit numa=: all memory is one node"
            ) from error
        if error.errno != errno.EPERM:
            raise
        raise AccessDeniedError(
            "a filter on system calls forbids memory policies",
            "omit numa=, or allow set_mempolicy and move_pages (docker run --cap-add SYS_NICE)",
        ) from error
    if node is None:
        return Placement(None, allowed)
    if node not in allowed:
        raise InvalidArgumentError(_why_not(node), f"choose one of: {format_list(allowed)}")
    return Placement(node, (node,))


def _why_not(node: int) -> str:
    if node not in mempolicy.listed("online"):
        return f"there is no memory node {node} here"
    if node not in mempolicy.listed("has_memory"):
        return f"node {node} has no memory"
    return f"this process may not use the memory of node {node} (its cpuset)"
