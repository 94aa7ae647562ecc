"""Sizes, offsets, addresses and shapes of any integer type, and arrays that fit or do not."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mshare
from mshare._core.geometry import PAGE, PUD, WINDOW

numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize("kind", [int, "int64", "uint32", "uint16"])
def test_numbers_of_every_integer_type_are_numbers(world: Path, kind: Any) -> None:
    make = kind if kind is int else getattr(numpy, kind)
    wide = int if kind is int else numpy.uint64
    addr, uid = wide(WINDOW[0] + 5 * PUD), wide(os.geteuid())
    with mshare.create("r", make(3 * PAGE), mode=make(0o640), addr=addr) as region:
        assert (region.size, region.addr) == (3 * PAGE, int(addr))
        assert type(region.size) is type(region.addr) is int
        assert region.info().mode == 0o640
        assert region.ndarray("u1", make(3), make(5)).shape == (3,)
        assert region.ndarray("u1", (make(3), 5), offset=make(5)).shape == (3, 5)
    with mshare.mshare("r", wide(addr + PUD), make(3 * PAGE), os.O_RDONLY) as again:
        assert again.addr == int(addr) + PUD
    with mshare.attach("r", addr=addr, owner=uid) as again:
        assert type(again.addr) is int
    with mshare.create_anonymous(make(PAGE), addr=addr, linkable=True, backend="shm") as nameless:
        nameless.link("linked", mode=make(0o600))


@pytest.mark.parametrize("wrong", [4096.0, "4096", numpy.float64(4096), numpy.bool_(True), True, None, [4096]])
def test_what_is_no_whole_number_is_no_number(world: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        mshare.create("r", wrong)
    with mshare.create("r", PAGE) as region:
        with pytest.raises(TypeError, match="whole number"):
            region.ndarray("u1", 1, wrong)
        if not isinstance(wrong, (str, list)):
            with pytest.raises(TypeError, match="whole number"):
                region.ndarray("u1", wrong)
        with pytest.raises(mshare.InvalidArgumentError, match="permission bits"):
            mshare.create("other", PAGE, mode=wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="whole number"):
            mshare.attach("r", addr=wrong)


DTYPES = ["u1", "<f4", ">i8", "S3", ("f4", (2, 2)), ("i2", 3), [("a", "i4"), ("b", "u1", (3,))]]
NUMBERS = st.one_of(st.integers(0, 9), st.sampled_from([PAGE, PAGE + 1, 1 << 40, 1 << 64]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.one_of(NUMBERS, st.lists(NUMBERS, max_size=5)),
    offset=NUMBERS,
    form=st.sampled_from([tuple, list, "array"]),
)
def test_an_array_is_what_numpy_makes_of_the_bytes_or_does_not_fit(
    world: Path, dtype: Any, shape: Any, offset: int, form: Any
) -> None:
    data = bytes(index * 37 % 251 for index in range(PAGE))
    dimensions = tuple(shape) if isinstance(shape, list) else (shape,)
    if form == "array" and isinstance(shape, list) and all(number < 1 << 63 for number in shape):
        asked: Any = numpy.array(shape, dtype="i8")
    else:
        asked = (list if form == "array" else form)(shape) if isinstance(shape, list) else shape
    if not (world / "shm" / "array").exists():  # the first example's
        mshare.create("array", PAGE, backend="shm", fill=lambda view: view.__setitem__(slice(None), data)).close()
    with mshare.attach("array") as region:
        try:
            expected = numpy.ndarray(dimensions, dtype, data, offset).copy()
        except (ValueError, TypeError, OverflowError):
            with pytest.raises(mshare.InvalidSizeError):
                region.ndarray(dtype, asked, offset)
            return
        got = region.ndarray(dtype, asked, offset)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        assert got.tobytes() == expected.tobytes()
        del got


def test_a_dtype_without_bytes_is_refused(world: Path) -> None:
    with mshare.create("r", PAGE) as region, pytest.raises(mshare.InvalidArgumentError, match="no bytes"):
        region.ndarray("S", 3)


def test_a_region_without_a_name_has_no_path(world: Path) -> None:
    with mshare.create("r", PAGE) as region:
        assert region.info().path == str(world / "shm" / "r")
        mshare.unlink("r")
        assert region.info().path == ""
        (world / "shm" / "r").write_bytes(b"somebody else's")
        assert (region.info().path, region.info().named) == ("", False)
        (world / "shm" / "r").unlink()
    with mshare.create_anonymous(PAGE) as nameless:
        assert nameless.info().path == ""


def test_only_a_handle_can_be_sent(world: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    with mshare.create("r", PAGE) as region:
        for wrong in (region, 3, None):
            with pytest.raises(TypeError, match=r"region\.handle\(\)"):
                mshare.send_handle(pair[0], wrong)  # type: ignore[arg-type]
