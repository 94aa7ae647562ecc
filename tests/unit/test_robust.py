"""The checks of a mutex's list pointers answer for every address, and see a list that is whole."""

from __future__ import annotations

import ctypes
import threading

import pytest

from mshare._core.linux import robust


@pytest.mark.parametrize("wrong", [0, 1, 8, 4096, (1 << 47) - 8, 1 << 63, (1 << 64) - 1])
def test_pointers_to_nowhere_are_not_intact(wrong: int) -> None:
    assert not robust.links_intact(1 << 40, wrong, wrong)


def test_the_pointers_of_held_mutexes_are_intact() -> None:
    mutexes = [(ctypes.c_uint64 * 5)(0, 0, robust.kind(), 0, 0) for _ in range(3)]

    def intact(index: int) -> bool:
        mutex = mutexes[index]
        node = ctypes.addressof(mutex) + robust.NODE_BYTE
        return robust.links_intact(node, mutex[robust.PREVIOUS], mutex[robust.NEXT])

    for mutex in mutexes:
        assert robust.trylock(ctypes.byref(mutex)) == 0
    assert [intact(index) for index in range(3)] == [True] * 3
    robust.unlock(ctypes.byref(mutexes[1]))
    assert [intact(index) for index in range(3)] == [True, False, True]
    mutexes[0][robust.NEXT], before = ctypes.addressof(mutexes[1]) + robust.NODE_BYTE, mutexes[0][robust.NEXT]
    assert not intact(0)
    mutexes[0][robust.NEXT] = before
    for mutex in (mutexes[0], mutexes[2]):
        robust.unlock(ctypes.byref(mutex))
    assert not any(intact(index) for index in range(3))


def test_a_mutex_that_is_alone_has_the_tail_of_the_thread() -> None:
    tails = []

    def look() -> None:
        mutex = (ctypes.c_uint64 * 5)(0, 0, robust.kind(), 0, 0)
        robust.trylock(ctypes.byref(mutex))
        tails.append(bytes(mutex)[robust.TAIL_BYTE : robust.TAIL_BYTE + robust.TAIL_BYTES])
        robust.unlock(ctypes.byref(mutex))
        tails.append(robust.only_tail())

    thread = threading.Thread(target=look)  # a thread that has no other robust mutex
    thread.start()
    thread.join()
    assert tails[0] == tails[1]
