"""Numbers in lists that own them: nothing is lost, and nothing is given back twice."""

from __future__ import annotations

import errno
import os

import pytest

from mshare._core.linux.held import give_back, take


def test_a_number_goes_in_and_out_once() -> None:
    held: list[int] = []
    take(held, os.open, ("/dev/null", os.O_RDONLY))
    fd = held[0]
    os.fstat(fd)
    assert give_back(held, os.close) is None
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)
    assert held == []
    assert give_back(held, os.close) is None  # otherwise this would close another user's descriptor


def test_a_number_that_says_failure_is_not_taken() -> None:
    held: list[int] = []
    take(held, int, ("-1",), unless=-1)
    assert held == []
    take(held, int, ("5",), unless=-1)
    assert held == [5]
    assert give_back(held, pow, 2) == 25


def test_a_call_that_fails_leaves_nothing() -> None:
    held: list[int] = []
    with pytest.raises(FileNotFoundError):
        take(held, os.open, ("/nowhere", os.O_RDONLY))
    assert held == []
