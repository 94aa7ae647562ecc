"""Roots: the directories that hold the files of regions. May depend on: backends, linux, errors,
typed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from . import backends
from .errors import BackendUnavailableError
from .linux import proc
from .typed import NamedTuple


class Root(NamedTuple):
    """A root, and the file system that lay there when it was looked at."""

    path: str
    dev: int
    prefix: str
    """The path with a slash: a name goes behind it."""


_remembered: tuple[str | None, tuple[Root, ...]] = (None, ())
"""$MSHARE_ROOT and the roots of the last look. The value is replaced as a whole, so it needs no lock."""


def remembered() -> tuple[Root, ...]:
    """Return the roots of the last look, if $MSHARE_ROOT is still the same."""
    base, places = _remembered
    return places if base == os.environ.get("MSHARE_ROOT") else ()


def present() -> tuple[Root, ...]:
    """Find the present roots, and remember them."""
    global _remembered  # noqa: PLW0603
    found: dict[str, Root] = {}
    for root in (backend.root() for backend in backends.ALL):
        prefix = f"{root}/"
        if root is None or prefix in found:
            continue
        try:
            status = os.stat(root)
        except OSError:
            continue
        # A root that we may not search (such as a pool for one group) holds nothing for us.
        if stat.S_ISDIR(status.st_mode) and os.access(root, os.X_OK, effective_ids=True):
            found[prefix] = Root(root, status.st_dev, prefix)
    _remembered = os.environ.get("MSHARE_ROOT"), tuple(found.values())
    return _remembered[1]


def directories() -> list[str]:
    """Return the directories that hold regions, in the order in which names are looked up."""
    return [root.path for root in present()]


def root_of(dev: int) -> str | None:
    """Return the root on the file system `dev`, if there is one."""
    return next((root.path for root in present() if root.dev == dev), None)


def no_proc() -> BackendUnavailableError:
    """Return the exception for a machine without a /proc that has this process in it."""
    if os.path.lexists("/proc/self"):
        problem = "/proc is that of a PID namespace which this process is not in"
    else:
        problem = "there is no /proc here"
    return BackendUnavailableError(problem, "sudo mount -t proc proc /proc")


def hidden_proc(error: OSError) -> BackendUnavailableError:
    """Return the exception for an unreadable file of /proc that every machine has."""
    if not proc.is_mounted():
        return no_proc()
    return BackendUnavailableError(
        f"{error.filename} cannot be read ({error.strerror})",
        "give this process all of /proc (in its systemd unit: ProcSubset=all)",
    )


@contextmanager
def read_only_named(root: str) -> Iterator[None]:
    """Raise `BackendUnavailableError` instead of the kernel's EROFS for a file under `root`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise BackendUnavailableError(
            f"{root} is mounted read-only",
            f"sudo mount -o remount,rw {root}; until then, regions in it can be attached with readonly=True",
        ) from error


def is_mounted_on(place: Root, name: str) -> bool:
    """Tell whether another file system is mounted on `name` in a root."""
    try:
        return os.stat(place.prefix + name, follow_symlinks=False).st_dev != place.dev
    except OSError:
        return False
