"""Tensors in regions are safetensors files: the library safetensors is the oracle of what is written and accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from safetensors import torch as oracle

import mshare
from mshare.torch import NotTensorsError, load_file, load_metadata, save
from mshare.torch.format import BITS, LARGEST_HEADER, parse
from tests.helpers.worlds import removed

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
NARROW = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64, *NARROW),
]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")


def of_bytes(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of these bytes, with memory of its own."""
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype and shape, of any bits, among them NaNs of all kinds."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    size = torch.Size(shape).numel() * dtype.itemsize
    bits = st.sampled_from(b"\0\1") if dtype == torch.bool else st.integers(0, 255)
    return of_bytes(bytes(draw(st.lists(bits, min_size=size, max_size=size))), dtype, shape)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert raw(found[name]) == raw(tensor)


def assert_in_region(found: Mapping[str, torch.Tensor], region: mshare.Region) -> None:
    for tensor in found.values():
        if tensor.numel():
            assert region.addr < tensor.data_ptr() <= region.addr + region.size - tensor.nbytes


@contextmanager
def region_of(content: bytes) -> Iterator[mshare.Region]:
    def fill(view: memoryview) -> None:
        view[:] = content

    with mshare.create_anonymous(len(content), backend="shm", fill=fill) as region:
        yield region


@SHARED
@given(
    st.dictionaries(NAMES, tensors(), max_size=4),
    st.none() | st.dictionaries(st.text('aä"\n\x7f'), st.text(), max_size=1),
)
def test_a_region_has_the_bytes_that_the_library_writes(
    world: Path, expected: dict[str, torch.Tensor], metadata: dict[str, str] | None
) -> None:
    assume(expected or metadata != {})  # the library 0.8 writes a file then that it does not read
    with removed("t"), save("t", expected, metadata=metadata, backend="shm") as region:
        content = bytes(region.buf)
        assert content == oracle.save(expected, metadata)
        assert_same(oracle.load(content), expected)
        found = load_file("t")
        assert_same(found, expected)
        assert_in_region(found, region)
        assert load_metadata("t") == (metadata or {})
        del found


def test_many_metadata_are_kept(world: Path) -> None:
    metadata = {str(number): "x" * number for number in range(50)}
    save("t", {}, metadata=metadata).close()
    assert load_metadata("t") == metadata
    assert load_file("t") == {}


def entry(dtype: str, shape: object, start: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


NUMBERS = st.integers(0, 9) | st.sampled_from([-1, 1.0, True, None, 1 << 31, 1 << 61, 1 << 62, 1 << 63, 1 << 64])
ENTRIES = st.builds(entry, st.sampled_from([*BITS, "F7", "f32"]), st.lists(NUMBERS, max_size=3), NUMBERS, NUMBERS)


@st.composite
def headers(draw: st.DrawFn) -> object:
    """A header, which often is valid, with a change in it, which often is not."""
    made: dict[str, object] = {}
    end = 0
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        dtype, shape = draw(st.sampled_from(list(BITS))), draw(st.lists(st.integers(0, 8), max_size=2))
        bits = BITS[dtype]
        for number in shape:
            bits *= number
        made[name] = entry(dtype, shape, end, end + bits // 8)
        end += bits // 8
    change = draw(st.sampled_from(["none", "none", "entry", "drop", "metadata", "field", "moved"]))
    names = sorted(made)
    if change == "entry":
        made["e"] = draw(ENTRIES)
    if change == "drop" and names:
        del made[names[0]]
    if change == "metadata":
        made["__metadata__"] = draw(st.sampled_from([None, {}, {"a": "b"}, {"a": 1}, {"a": None}, [], "text", 3]))
    if change == "field" and names:
        made[names[0]] = draw(
            st.sampled_from([None, [], {}, {"dtype": "F32"}, {**entry("U8", [0], 0, 0), "more": [1]}])
        )
    if change == "moved" and names:
        made[names[0]] = entry("U8", [1], draw(NUMBERS), draw(NUMBERS))
    return made


def file_of(text: bytes, items: int) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(items)


def assert_same_verdict(content: bytes) -> None:
    try:
        found = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        with pytest.raises(NotTensorsError):
            parse(memoryview(content), len(content), "it")
        return
    entries = parse(memoryview(content), len(content), "it").entries
    assert entries.keys() == found.keys()
    for name, each in entries.items():
        assert (each.dtype, list(each.shape)) == (found[name]["dtype"], found[name]["shape"])
        assert content[each.start : each.end] == found[name]["data"]


@settings(max_examples=1000)
@given(headers(), st.integers(-1, 1))
@example({}, 0)
@example({"a": entry("U8", [0, 1 << 62, 1 << 62], 0, 0)}, 0)
@example({"a": entry("U8", [1 << 62, 1 << 62, 0], 0, 0)}, 0)
def test_the_library_accepts_the_same_headers(header: dict[str, Any], more: int) -> None:
    ends = [each["data_offsets"][1] for each in header.values() if isinstance(each, dict) and "data_offsets" in each]
    last = max((end for end in ends if type(end) is int and 0 <= end < 1000), default=0)
    assert_same_verdict(file_of(json.dumps(header).encode(), max(0, last + more)))


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{} ", b"{}\n", b"{}x", b"[]", b"3", b"null", b"{", b'"a"', b"\xff", b'{"\xff":1}'),
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":NaN}}',
        b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[0e0],"data_offsets":[0,0]}}',
        b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}',
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}',
        b'{"a":{"dtype":"U8","shape":0,"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 30 + b'],"data_offsets":[0,0]}}',
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ],
    ids=lambda text: text[:40].decode("latin1"),
)
def test_the_library_accepts_the_same_texts(text: bytes) -> None:
    assert_same_verdict(file_of(text, 0))


@given(st.binary(max_size=40))
@example(b"\xff" * 8)
@example(bytes(8))
@example(file_of(b"{}", 0)[:-1])
def test_the_library_accepts_the_same_bytes(content: bytes) -> None:
    assert_same_verdict(content)


STRICTER = {
    "deep": b'{"a":' * 9_000,
    "long": b"{" + b" " * LARGEST_HEADER + b"}",
    "a space first": b" {}",
    "one name twice": b'{"__metadata__":{"a":"b","a":"c"}}',
}


@pytest.mark.parametrize("which", STRICTER)
def test_headers_that_the_format_forbids_or_that_exhaust_a_parser_are_refused(which: str) -> None:
    """The library accepts all but the first."""
    content = file_of(STRICTER[which], 0)
    with pytest.raises(NotTensorsError):
        parse(memoryview(content), len(content), "it")


def test_items_may_lie_at_any_byte(world: Path) -> None:
    """Older versions of the library wrote headers of any length."""
    text = json.dumps({"a": entry("F64", [3], 0, 24), "b": entry("C64", [], 24, 32), "c": entry("I16", [2], 32, 36)})
    for length in range(len(text), len(text) + 8):
        content = file_of(text.ljust(length).encode(), 0) + bytes(range(36))
        with region_of(content) as region:
            found = load_file(region)
            assert_same(found, oracle.load(content))
            assert (found["a"] + 1).shape == (3,)
            del found


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F6_E2M3", [4], 3),
        ("F4", [3, 2, 1, 1], 3),
        ("F4", [0, 3], 0),
        ("F32", [0, 1 << 62, 1 << 62], 0),
        ("F32", [0, 1 << 63], 0),
    ],
)
def test_what_torch_cannot_represent_is_refused(world: Path, dtype: str, shape: list[int], size: int) -> None:
    content = file_of(json.dumps({"a": entry(dtype, shape, 0, size)}).encode(), size)
    with region_of(content) as region, pytest.raises(NotTensorsError, match="tensor 'a' of the region"):
        load_file(region)


def test_a_header_that_nobody_would_load_is_not_saved(world: Path) -> None:
    save("t", {}, metadata={"a": "b" * (LARGEST_HEADER - 100)}).close()
    assert load_file("t") == {}
    with pytest.raises(mshare.InvalidArgumentError, match="at most"):
        save("u", {}, metadata={"a": "b" * LARGEST_HEADER})


def test_pairs_of_4_bits_and_exponents_are_kept(world: Path, tmp_path: Path) -> None:
    """The library writes these dtypes, and its `load` does not read them. Its `load_file` does."""
    expected = {
        "pairs": of_bytes(bytes(range(12)), torch.float4_e2m1fn_x2, (2, 6)),
        "exponents": of_bytes(bytes(range(250, 256)), torch.float8_e8m0fnu, (3, 2)),
    }
    oracle.save_file(expected, tmp_path / "file")
    with save("t", expected) as region:
        assert bytes(region.buf) == (tmp_path / "file").read_bytes()
        found = load_file("t")
        assert_same(found, expected)
        assert_same(oracle.load_file(tmp_path / "file"), expected)
        assert_in_region(found, region)
        del found
