"""Limits of a process that make the kernel refuse a call: the error names the limit, and nothing has changed."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core import limits
from mshare._core.geometry import PAGE, PMD
from mshare.testing.conformance import files
from mshare.testing.processes import in_child
from tests.helpers.worlds import window_mappings

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """Leave this process exactly `count` descriptors for the time of a `with` block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hold = [os.open("/dev/null", os.O_RDONLY)]
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    with suppress(OSError):
        while True:
            hold.append(os.dup(hold[0]))
    for fd in hold[len(hold) - count :]:
        os.close(fd)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in hold[: len(hold) - count]:
            os.close(fd)


def fresh(regions: dict[str, mshare.Region], name: str, make: Callable[[], mshare.Region]) -> str:
    regions[name] = make()
    return "made"


CALLS: dict[str, tuple[Callable[[dict[str, Any]], Any], Any]] = {
    "create": (lambda kept: fresh(kept, "new", lambda: mshare.create("new", PAGE)), "made"),
    "create thp": (lambda kept: fresh(kept, "new", lambda: mshare.create("new", PMD, backend="thp")), "made"),
    "create_anonymous": (lambda kept: fresh(kept, "new", lambda: mshare.create_anonymous(PAGE)), "made"),
    "attach": (lambda kept: fresh(kept, "new", lambda: mshare.attach("r")), "made"),
    "attach anywhere": (lambda kept: fresh(kept, "new", lambda: mshare.attach("r", addr=mshare.ANYWHERE)), "made"),
    "attach a handle read-only": (
        lambda kept: fresh(kept, "new", lambda: mshare.attach(kept["handle"], readonly=True, addr=mshare.ANYWHERE)),
        "made",
    ),
    "mshare": (lambda kept: fresh(kept, "new", lambda: mshare.mshare("r", None, 0, os.O_RDWR)), "made"),
    "regions": (lambda _: [info.name for info in mshare.regions()], ["r"]),
    "gc": (lambda _: mshare.gc(), []),
    "info": (lambda kept: (kept["r"].info().named, kept["r"].info().pids), (True, (os.getpid,))),
    "handle": (lambda kept: kept["r"].handle().close(), None),
    "map_only": (lambda kept: kept["nameless"].map_only().close(), None),
    "sealed": (lambda kept: kept["r"].sealed, False),
    "duplicate": (lambda kept: kept["handle"].duplicate().close(), None),
    "from_process": (lambda kept: mshare.Handle.from_process(os.getpid(), kept["handle"].fileno()).close(), None),
    "unlink": (lambda _: mshare.unlink("r"), None),
    "mshare_unlink": (lambda _: mshare.mshare_unlink("r"), True),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_lack_of_descriptors_is_named_or_does_not_matter(world: Path, call: str) -> None:
    """With any number of descriptors left, the call does all its work, or names the limit and does nothing."""
    function, expected = CALLS[call]

    def run(count: int) -> str:
        with mshare.create("r", PAGE, backend="shm") as region, mshare.create_anonymous(PAGE) as nameless:
            with region.handle() as handle:
                kept: dict[str, Any] = {"r": region, "nameless": nameless, "handle": handle}
                before = window_mappings(), len(os.listdir("/proc/self/fd")), [path.name for path in files()]
                try:
                    with free_descriptors(count):
                        got = function(kept)
                except mshare.DescriptorLimitError as error:
                    outcome = str(error)
                    after = window_mappings(), len(os.listdir("/proc/self/fd")), [path.name for path in files()]
                    assert after == before
                else:
                    wanted = (True, (os.getpid(),)) if call == "info" else expected
                    assert got == wanted, got
                    outcome = "done"
                for other in set(kept) - {"r", "nameless", "handle"}:
                    kept[other].close()
            for info in mshare.regions():
                mshare.unlink(info.name)
        return outcome

    outcomes = [in_child(partial(run, count)).value for count in range(7)]
    named = [outcome for outcome in outcomes if "RLIMIT_NOFILE" in outcome and "ulimit -n" in outcome]
    assert named
    assert outcomes[: len(named)] == named
    assert set(outcomes[len(named) :]) == {"done"}


def test_the_limit_of_the_machine_is_another_one() -> None:
    """No test can use up the files of its machine. The test therefore fakes the kernel's answer, and nothing else."""

    @limits.named
    def refused() -> None:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    with pytest.raises(mshare.DescriptorLimitError, match="/proc/sys/fs/file-max") as caught:
        refused()
    assert caught.value.errno == errno.ENFILE
    assert pickle.loads(pickle.dumps(caught.value)).errno == errno.ENFILE


def mappings_until_refused() -> list[int]:
    """Make as many mappings as the kernel lets this process have, and return their addresses."""
    got: list[int] = []
    failed = ctypes.c_void_p(-1).value
    while (addr := _libc.mmap(None, PAGE, 1 + 2 * (len(got) & 1), 0x22, -1, 0)) != failed:
        got.append(addr)  # read-only and writable in turn: the kernel cannot merge them
    return got


@pytest.mark.machine  # test_scan.py changes this limit
@pytest.mark.parametrize("where", [None, mshare.ANYWHERE])
def test_the_number_of_mappings_is_named(world: Path, where: Any) -> None:
    mshare.create("r", PAGE, backend="shm").close()

    def run() -> str:
        mshare.attach("r", addr=where).close()
        got = mappings_until_refused()
        try:
            with pytest.raises(mshare.NoSpaceError) as caught:
                mshare.attach("r", addr=where)
        finally:
            for addr in got:
                _libc.munmap(addr, PAGE)
        mshare.attach("r", addr=where).close()
        assert window_mappings() == []
        return str(caught.value)

    assert "vm.max_map_count" in in_child(run).value


def test_the_limit_on_addresses_is_named(world: Path) -> None:
    mshare.create("r", 64 << 20, backend="shm", reserve=False).close()

    def run() -> str:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
        with pytest.raises(mshare.NoSpaceError) as caught:
            mshare.attach("r")
        return str(caught.value)

    message = in_child(run).value
    assert "RLIMIT_AS" in message
    assert "ulimit -v" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes a user whose locked memory is limited")
def test_the_limit_on_locked_memory_is_named(world: Path) -> None:
    mshare.create("r", 1 << 20, mode=0o666, backend="shm").close()

    def run() -> str:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (256 << 10, 256 << 10))
        assert _libc.mlockall(2) == 0  # MCL_FUTURE
        with pytest.raises(mshare.NoSpaceError) as caught:
            mshare.attach("r")
        _libc.munlockall()
        return str(caught.value)

    message = in_child(run, uid=54321).value
    assert "RLIMIT_MEMLOCK" in message
    assert "256 KiB" in message


def test_a_handle_that_finds_no_descriptor_is_not_lost_in_silence(
    world: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = pair
    with mshare.create_anonymous(PAGE) as region, region.handle() as handle:
        mshare.send_handle(here, handle)
        with free_descriptors(0), pytest.raises(mshare.DescriptorLimitError):
            mshare.recv_handle(there)
