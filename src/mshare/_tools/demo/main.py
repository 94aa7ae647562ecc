"""The demo from start to end: checks, story, bill, and the proof that nothing is left.

May depend on: bill, flights, story, backend, backends, linux, errors, units, geometry, roots.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..._core import backends, roots
from ..._core.backend import Space
from ..._core.errors import InvalidSizeError, NoSpaceError
from ..._core.geometry import PMD
from ..._core.linux import proc
from ..._core.linux.mounts import mount_under
from ..._core.units import MIB, format_size
from . import flights
from .bill import PROJECTED_BYTES, PROJECTED_PROCESSES, Bill, draw_up
from .story import Story, play

DEFAULT_BYTES = 512 * MIB
DEFAULT_PROCESSES = 32
_SHM = Path("/dev/shm")  # where multiprocessing.shared_memory keeps its segments, whatever $MSHARE_ROOT says


@dataclass(frozen=True, slots=True)
class Result:
    """The results of the demo."""

    story: Story
    bill: Bill | None
    left_behind: tuple[str, ...]
    """Files of this run found at its end; they are removed then, and should have been before."""
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything, bytes and nanoseconds exact."""
        document = asdict(self)
        document["story"]["delays"] = {c: d._asdict() for c, d in self.story.delays.items()}
        for line, plain in zip(
            self.bill.lines if self.bill else (), (document["bill"] or {}).get("lines", ()), strict=True
        ):
            plain["cost"]["process"] = line.cost.process._asdict()
            plain["slope"] = line.slope._asdict() if line.slope else None
        document["projection"] = {"size_bytes": PROJECTED_BYTES, "processes": PROJECTED_PROCESSES}
        return document


def fitting_size(wanted: int | None) -> tuple[int, str]:
    """Return the bytes to use and, if that is not what was wanted, why.

    A size that was asked for must fit; the default one is halved until it does. Raises `NoSpaceError`.
    """
    space = backends.ALL[-1].space()
    size = DEFAULT_BYTES if wanted is None else wanted
    if size <= 0:
        raise InvalidSizeError(f"a region of {size} bytes holds no table", "choose 16M or more")
    while wanted is None and size + PMD > space.free_bytes and size > 16 * MIB:
        size //= 2
    if size + PMD > space.free_bytes:
        raise NoSpaceError(
            f"the demo needs {format_size(size)}, but only {format_size(space.free_bytes)} can be had ({space.limit})",
            "pass a smaller --size (16M at least)" + _remount(size + PMD, space),
        )
    if wanted is None and size != DEFAULT_BYTES:
        return size, f"{format_size(size)} instead of {format_size(DEFAULT_BYTES)}: {space.limit} has no more"
    return size, ""


def _remount(needed: int, space: Space) -> str:
    """Return how to make the file system larger, if that is what is too small."""
    root = backends.ALL[-1].root()
    mount = mount_under(root) if root else None
    if mount is None or not space.limit.startswith("free space of"):
        return ""
    status = os.statvfs(mount.mount_point)
    mebibytes = -(-(status.f_blocks * status.f_frsize + needed - space.free_bytes) // MIB)
    return (
        f", or: sudo mount -o remount,size={mebibytes}M {mount.mount_point} "
        f"(in a container: docker run --shm-size={mebibytes}m)"
    )


def left_behind(prefix: str) -> list[Path]:
    """Return the files called `prefix` or `prefix-…` in all roots and in /dev/shm. Not `prefix*`: that of process 123
    would take those of process 1234."""
    places = {*map(Path, roots.directories()), _SHM}
    return sorted(path for place in places for kind in (prefix, f"{prefix}-*") for path in place.glob(kind))


@contextmanager
def _cleaned_up(prefix: str) -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an orderly end, and let no second Ctrl-C disturb the cleaning up.

    What a killed demo leaves are orphans, for `mshare gc`.
    """

    def stop(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, stop)
    if before[signal.SIGHUP] is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, stop)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        for path in left_behind(prefix):
            with suppress(OSError):  # gone, or another user's of that name
                path.unlink()
        for number, handler in before.items():
            signal.signal(number, handler)


def demonstrate(
    size_bytes: int | None = None,
    processes: int = DEFAULT_PROCESSES,
    *,
    runs: int = 3,
    measured: bool = True,
    projected: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Run the demo and return what it has shown. Call it from the main thread: it minds signals.

    - `size_bytes`: of the region; None for 512 MiB, or less where that does not fit.
    - `processes`: workers, all attached at once.
    - `runs`: fresh processes that each measured row is the median of.
    - `measured`, `projected`: False to leave out the table, or only its projection (which takes 2 GiB of memory).
    - `tell`: called with each step before it is done.

    Raises `BackendUnavailableError` without a /proc, `MissingExtraError`, `WrongDataError`, `NoSpaceError`,
    `InvalidSizeError`, `DemoFailedError`. Nothing is left behind in any case.
    """
    if not proc.is_mounted():
        raise roots.no_proc()
    flights.data_file()
    size, note = fitting_size(size_bytes)
    name = f"mshare-demo-{os.getpid()}"
    with _cleaned_up(name):
        story = play(name, size, processes, tell)
        bill = draw_up(f"{name}-bill", size, runs=runs, slopes=projected, tell=tell) if measured else None
        left = tuple(str(path) for path in left_behind(name))
        return Result(story, bill, left, (note,) if note else ())
