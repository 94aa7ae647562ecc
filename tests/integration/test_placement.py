"""`numa=` on a machine with any number of nodes: refusals before anything is made, and the thread's policy afterwards.

tests/kernel/test_placement.py looks at the nodes of pages, in a guest with two nodes.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import mshare
from mshare._core.linux import mempolicy
from mshare._core.units import MIB
from mshare.testing.conformance import files
from mshare.testing.processes import in_child
from tests.helpers.worlds import needs_root

SET_MEMPOLICY, GET_MEMPOLICY = 238, 239
_SECCOMP_RET_ERRNO, _SECCOMP_RET_ALLOW = 0x50000, 0x7FFF0000


def forbid(number: int, error: int) -> None:
    """Have a system call of this process, and of its children, fail from now on (seccomp(2))."""
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the call
            (0x15, 0, 1, number),  # if it is this one
            (0x06, 0, 0, _SECCOMP_RET_ERRNO | error),
            (0x06, 0, 0, _SECCOMP_RET_ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program)
    filters = ctypes.create_string_buffer(struct.pack("=H6xQ", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, filters) == 0


def policy() -> tuple[int, list[int]]:
    mode, mask = mempolicy._get(0)
    return mode, list(mask)


def refusal(call: Callable[[], object]) -> list[str]:
    """Return the class and the text of the error."""
    try:
        call()
    except mshare.MshareError as error:
        return [type(error).__name__, str(error)]
    return []


@pytest.mark.parametrize(
    ("numa", "said"),
    [
        (977, "there is no memory node 977 here: choose one of: 0"),
        (-1, "there is no memory node -1 here"),
        ("all", "invalid numa 'all': use the number of a node, 'interleave' or None"),
        ("", "invalid numa ''"),
    ],
)
def test_a_node_that_is_not_there_is_refused(backend: str, numa: int | str, said: str) -> None:
    before = policy()
    with pytest.raises(mshare.InvalidArgumentError, match=said):
        mshare.create("r", MIB, backend=backend, numa=numa)
    with pytest.raises(mshare.InvalidArgumentError, match=said):
        mshare.create_anonymous(MIB, backend=backend, numa=numa)
    assert files() == []
    with mshare.create("r", MIB, backend=backend, reserve=False) as region:
        resident = region.resident()
        with pytest.raises(mshare.InvalidArgumentError, match=said):
            region.populate(numa=numa)
        assert region.resident() == resident
    assert policy() == before


def test_other_types_are_refused(world: Path) -> None:
    for numa in (1.5, True, [0]):
        with pytest.raises(TypeError, match="a node is a whole number"):
            mshare.create("r", MIB, numa=numa)  # type: ignore[arg-type]
    assert files() == []


def test_memory_that_is_not_taken_has_no_place(world: Path) -> None:
    with pytest.raises(mshare.InvalidArgumentError, match=r"give numa= to Region\.populate"):
        mshare.create("r", MIB, reserve=False, numa=0)
    assert files() == []


@pytest.mark.parametrize("numa", [0, "interleave"])
def test_the_policy_of_the_thread_is_as_before(backend: str, numa: int | str) -> None:
    def child() -> list[object]:
        seen: list[object] = []
        for mode, nodes in (
            (mempolicy.INTERLEAVE, (0,)),
            (mempolicy.PREFERRED | 1 << 15, (0,)),
            (mempolicy.BIND, (0,)),
        ):
            assert mempolicy._setter(mode, _mask(nodes))() == 0
            before = policy()
            with mshare.create("r", 4 * MIB, backend=backend, numa=numa) as region:
                seen.append(policy() == before)
                region.discard()
                region.populate(numa=numa)
                seen.append(policy() == before)
            mshare.unlink("r")
            with mshare.create("r", 1 << 44, backend=backend, reserve=False) as region:
                seen.append(refusal(lambda: region.populate(numa=numa))[0])
                seen.append(policy() == before)
            mshare.unlink("r")
            seen.append(before[0] == mode)
        return seen

    assert in_child(child).value == [True, True, "NoSpaceError", True, True] * 3


def _mask(nodes: tuple[int, ...]) -> ctypes.Array[ctypes.c_ulong]:
    mask = mempolicy._Mask()
    for node in nodes:
        mask[0] |= 1 << node
    return mask


def test_the_policy_is_back_when_the_call_raises(world: Path) -> None:
    before = policy()

    def call() -> None:
        assert policy()[0] == mempolicy.INTERLEAVE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mempolicy.under(mempolicy.INTERLEAVE, (0,), call)
    assert policy() == before
    with pytest.raises(OSError, match="Invalid argument"):
        mempolicy.under(mempolicy.BIND, (1000,), call)
    assert policy() == before


def test_a_policy_is_of_one_thread(world: Path) -> None:
    seen: list[tuple[int, list[int]]] = []

    def call() -> None:
        thread = threading.Thread(target=lambda: seen.append(policy()))
        thread.start()
        thread.join()

    running, go_on = threading.Event(), threading.Event()
    done: list[tuple[int, list[int]]] = []

    def wait() -> None:
        running.set()
        go_on.wait(60)
        done.append(policy())

    other = threading.Thread(target=wait)
    other.start()
    running.wait(60)
    before = policy()
    mempolicy.under(mempolicy.BIND, (0,), call)
    go_on.set()
    other.join()
    assert done == [before]
    assert seen[0][0] == mempolicy.BIND, "a thread that is started in the middle inherits it"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (errno.ENOSYS, "BackendUnavailableError", "this kernel has no memory nodes (CONFIG_NUMA): omit numa="),
        (errno.EPERM, "AccessDeniedError", "a filter on system calls forbids memory policies: omit numa="),
    ],
)
@pytest.mark.parametrize("number", [GET_MEMPOLICY, SET_MEMPOLICY])
def test_a_kernel_that_has_no_nodes_and_one_that_may_not_be_asked(
    world: Path, number: int, error: int, kind: str, said: str
) -> None:
    def child() -> list[object]:
        with mshare.create("s", MIB, reserve=False) as region:
            forbid(number, error)
            before = region.resident()
            found = [
                refusal(lambda: mshare.create("r", MIB, numa="interleave")),
                refusal(lambda: region.populate(numa=0)),
            ]
            assert region.resident() == before
            region.populate()  # and without a node all works
            mshare.create("plain", 4 * MIB).close()
        return [*found, [path.name for path in files()]]

    first, second, names = in_child(child).value
    assert first == second
    assert first[0] == kind
    assert first[1].startswith(said)
    assert names == ["plain", "s"]


@needs_root
@pytest.mark.parametrize("tmpfs", ["shm", "thp"])
def test_a_file_system_with_a_policy_of_its_own_is_refused(world: Path, tmpfs: str) -> None:
    place = world / "shm"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777,mpol=bind:0", "none", str(place)], check=True)
    try:
        with pytest.raises(mshare.BackendUnavailableError, match=r"is mounted with mpol=bind:0.*mpol=default"):
            mshare.create("r", MIB, backend=tmpfs, numa=0)
        assert files() == []
        with mshare.create("r", MIB, backend=tmpfs) as region:
            region.discard()
            with pytest.raises(mshare.BackendUnavailableError, match="mpol=bind:0"):
                region.populate(numa=0)
            region.populate()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_region_that_no_node_can_hold(backend: str) -> None:
    with pytest.raises(mshare.NoSpaceError, match=r"needs 16 TiB on .*can be had \(.*\)"):
        mshare.create("r", 1 << 44, backend=backend, numa=0)
    assert files() == []
