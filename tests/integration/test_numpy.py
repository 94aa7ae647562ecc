"""Arrays in regions: what was saved is what is loaded, by us and by numpy itself, without a copy, and hostile bytes do
no harm."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

import mshare
import mshare.numpy
from mshare.numpy import NotAnArrayError, Reference, load, load_dict, save
from tests.helpers.worlds import removed

START_METHODS = ["fork", "spawn", "forkserver"]
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array of any dtype that has no objects: in C order, in Fortran order, or not contiguous."""
    dtype = draw(st.one_of(extra.scalar_dtypes(), extra.nested_dtypes(max_itemsize=64)))
    made = draw(extra.arrays(dtype, extra.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    form = draw(st.sampled_from(["C", "F", "strided", "reversed", "swapped"]))
    if form == "F":
        return numpy.asfortranarray(made) if made.ndim else made
    if form == "strided" and made.ndim:
        return numpy.repeat(made, 2, axis=made.ndim - 1)[..., ::2]
    if form == "reversed" and made.ndim:
        return made[::-1]
    return made.view(made.dtype.newbyteorder()) if form == "swapped" else made


def saved_by_numpy(array: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of headers of version 3
        numpy.save(file, array, allow_pickle=False)
    return file.getvalue()


def assert_same(got: Any, array: Any) -> None:
    """Compare with what numpy makes of its own file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = numpy.load(io.BytesIO(saved_by_numpy(array)))
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape) == (array.dtype, array.shape)
    assert got.tobytes("A") == expected.tobytes("A")
    assert (got.flags.c_contiguous, got.flags.f_contiguous) == (
        expected.flags.c_contiguous,
        expected.flags.f_contiguous,
    )
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.setflags(write=True)


@contextmanager
def region_of(content: bytes, name: str = "r") -> Iterator[mshare.Region]:
    def fill(view: memoryview) -> None:
        view[:] = content

    with mshare.create(name, len(content), backend="shm", fill=fill) as region:
        mshare.unlink(name)
        yield region


@SHARED
@given(arrays())
def test_an_array_is_a_npy_file(world: Path, array: Any) -> None:
    with removed("a"), save("a", array, backend="shm") as region:
        path = Path(region.info().path)
        theirs = saved_by_numpy(array)
        if theirs[6] == 1:  # numpy puts room for longer shapes into headers of version 3, which have Unicode names
            assert bytes(region.buf) == theirs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert numpy.load(path).tobytes("A") == load(region).tobytes("A")
        got = load("a")
        assert got.ctypes.data % 64 == 0
        assert not got.nbytes or region.addr <= got.ctypes.data < region.addr + region.size
        assert_same(got, array)
        del got


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@SHARED
@given(st.dictionaries(NAMES.filter(lambda name: not name.endswith(".npy")), arrays(), min_size=1, max_size=3))
def test_a_dict_is_a_npz_file(world: Path, members: dict[str, Any]) -> None:
    with removed("d"), save("d", members, backend="shm") as region, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with numpy.load(region.info().path) as theirs, zipfile.ZipFile(region.info().path) as archive:
            assert archive.testzip() is None
            assert theirs.files == list(members)
            for name, got in load_dict("d").items():
                assert got.ctypes.data % 64 == 0
                assert_same(got, members[name])
                assert_same(load("d", name), members[name])
                assert theirs[name].tobytes("A") == got.tobytes("A")
                del got


@pytest.mark.parametrize("size", [1, (1 << 20) + 5, 3 << 20])
def test_numpy_reads_the_files_of_every_backend(backend: str, size: int) -> None:
    """But for small archives on hugetlb: their end is far from the end of the huge page."""
    members = {"one": numpy.arange(size, dtype="u1"), "two": numpy.arange(12.0).reshape(3, 4).T}
    for name, value in (("array", members["one"]), ("dict", members)):
        with save(name, value, backend=backend) as region:
            path = region.info().path
            if name == "array":
                assert numpy.array_equal(numpy.load(path), members["one"])
                assert numpy.array_equal(numpy.load(path, mmap_mode="r"), members["one"])
                continue
            if backend != "hugetlb" or size > 1 << 20:
                with numpy.load(path) as theirs:
                    assert all(numpy.array_equal(theirs[each], members[each]) for each in members)
            assert all(numpy.array_equal(found, members[each]) for each, found in load_dict("dict").items())


def test_padding_names_of_fields_and_nan_payloads_are_kept(world: Path) -> None:
    aligned = numpy.zeros(3, numpy.dtype([("a", "u1"), ("bé", ">f8"), ("漢", "M8[D]", (2,))], align=True))
    aligned["bé"] = [1, 2, 3]
    payloads = numpy.arange(0x7FF00001, 0x7FF00001 + 2000, dtype="u4").view("f4")
    many = numpy.zeros(2, [(f"field{number}", "i4") for number in range(300)])
    save("x", {"aligned": aligned, "payloads": payloads, "many": many}).close()
    got = load_dict("x")
    assert got["aligned"].dtype == aligned.dtype
    assert all(numpy.array_equal(got["aligned"][field], aligned[field]) for field in ("a", "bé", "漢"))
    assert got["payloads"].tobytes() == payloads.tobytes()
    assert got["many"].dtype == many.dtype
    mshare.unlink("x")


WRONG = {
    "pointers": numpy.array([1, "a", None], dtype=object),
    "which holds pointers": numpy.zeros(2, [("a", "i4"), ("b", "O")]),
    "masked": numpy.ma.masked_array([1, 2], [True, False]),
    "many fields": numpy.zeros(2, [(f"field{number}", "i4") for number in range(900)]),
    "so many fields": numpy.zeros(2, [(f"field{number}", "i4") for number in range(9000)]),
    "cannot describe": numpy.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_a_file_cannot_hold_is_refused_before_anything_is_created(world: Path, message: str) -> None:
    wrong = WRONG[message]
    for value in (wrong, {"fine": numpy.zeros(3), "wrong": wrong}):
        with pytest.raises(mshare.InvalidArgumentError, match=message):
            save("r", value)
    assert mshare.regions() == []


@pytest.mark.parametrize("names", [[], ["\0"], ["\ud800"], ["x" * 997], [3]])
def test_names_that_an_archive_cannot_hold_are_refused(world: Path, names: list[Any]) -> None:
    with pytest.raises(mshare.InvalidArgumentError):
        save("r", {name: numpy.zeros(1) for name in names})
    with pytest.raises(mshare.InvalidArgumentError, match="too many"):
        save("r", dict.fromkeys(map(str, range(70_000)), numpy.zeros(0)))
    assert mshare.regions() == []


def test_an_error_names_the_arrays_that_there_are(world: Path) -> None:
    save("d", {"one": 1, "two": [2.5, 3]}).close()
    save("a", numpy.array(7)).close()
    with pytest.raises(mshare.InvalidArgumentError, match="one, two"):
        load("d")
    with pytest.raises(mshare.InvalidArgumentError, match=r"no array 'three'.*one, two"):
        load("d", "three")
    with pytest.raises(mshare.InvalidArgumentError, match="without a name"):
        load("a", "one")
    with pytest.raises(NotAnArrayError, match="use load"):
        load_dict("a")
    assert load("a")[()] == 7
    with pytest.raises(mshare.RegionExistsError):
        save("a", numpy.array(8))
    with pytest.raises(mshare.RegionNotFoundError):
        load("b")


def test_archives_of_numpy_can_be_loaded_if_they_are_not_compressed(world: Path) -> None:
    members = {"x": numpy.arange(9.0).reshape(3, 3).T, "y": numpy.arange(3, dtype=">i2")}
    for write in (numpy.savez, numpy.savez_compressed):
        file = io.BytesIO()
        write(file, **members)  # type: ignore[arg-type]
        with region_of(file.getvalue()) as region:
            if write is numpy.savez:
                got = load_dict(region)
                assert all(numpy.array_equal(got[name], members[name]) for name in members)
                del got
            else:
                with pytest.raises(NotAnArrayError, match="compressed"):
                    load_dict(region)


def test_an_array_keeps_its_region_and_is_read_only_unless_asked(world: Path) -> None:
    with save("r", numpy.arange(5)) as region:
        first, writable = load(region), load("r", readonly=False)
        mshare.unlink("r")
        writable[2] = 99
        assert first[2] == 99
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 1
        with pytest.raises(mshare.ViewsAliveError):
            region.close()
        tail = first[3:]
        del first, writable
        with pytest.raises(mshare.ViewsAliveError):
            region.close()
        assert tail.tolist() == [3, 4]
        del tail
    with pytest.raises(mshare.RegionClosedError):
        load(region)
    save("r", numpy.arange(5), mode=0o400).close()
    array = load("r")
    assert array.tolist() == [0, 1, 2, 3, 4]
    assert pickle.loads(pickle.dumps(array)).flags.owndata
    with mshare.attach("r", readonly=True, addr=mshare.ANYWHERE) as again, pytest.raises(mshare.ReadOnlyMappingError):
        load(again, readonly=False)


def test_a_newer_array_replaces_an_older_one(world: Path) -> None:
    save("r", [1, 2]).close()
    older = load("r")
    save("r", {"x": [3.5]}, replace=True).close()
    assert older.tolist() == [1, 2]
    assert load("r", "x").tolist() == [3.5]
    with pytest.raises(mshare.InvalidArgumentError, match="without a name"):
        save(None, [1], replace=True)


CHILD = """
import resource, sys, numpy, mshare.numpy
path, kind = sys.argv[1:]
array = numpy.load(path, mmap_mode="r")
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
used = int(fields["VmData"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (24 << 20),) * 2)
mshare.numpy.save("big", {"a": array, "b": array[::-1]} if kind == "dict" else array, backend="shm").close()
try:
    numpy.array(array)
except MemoryError:
    print("no memory for a copy")
"""


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["array", "dict"])
def test_saving_needs_no_memory_beside_the_region(world: Path, tmp_path: Path, order: str, kind: str) -> None:
    """The kernel allows the child 24 MiB of memory of its own (RLIMIT_DATA), and the array has 64 MiB."""
    array = numpy.arange(8 << 20, dtype="f8").reshape((2048, 4096), order=order)  # type: ignore[call-overload]
    numpy.save(tmp_path / "array.npy", array)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "array.npy"), kind]
    done = subprocess.run(
        command, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("no memory for a copy\n", "")
    if kind == "array":
        assert numpy.array_equal(load("big"), array)
    else:
        assert numpy.array_equal(load("big", "a"), array)
        assert numpy.array_equal(load("big", "b"), array[::-1])


def move_to(root: str) -> None:
    """Use the test's root. The children of a fork server that an earlier test has started know another one."""
    os.environ["MSHARE_ROOT"] = root


def total(reference: Reference) -> tuple[int, float, int]:
    array = reference.load()
    return os.getpid(), float(array.sum()), array.ctypes.data


@pytest.mark.parametrize("method", START_METHODS)
def test_references_travel_and_arrays_do_not(world: Path, method: str) -> None:
    values = {"even": numpy.arange(0, 1000, 2.0), "odd": numpy.arange(1, 1000, 2.0)}
    context: Any = multiprocessing.get_context(method)
    with save("named", values) as named, save(None, values["odd"]) as nameless, nameless.map_only() as handle:
        references = [Reference("named", "even"), Reference("named", "odd"), Reference(handle)] * 2
        assert len(pickle.dumps(references[0])) < 200
        with context.Pool(2, initializer=move_to, initargs=(str(world),)) as pool:
            answers = pool.map(total, references)
        assert all(pid != os.getpid() for pid, _, _ in answers)
        assert [answer for _, answer, _ in answers] == [values["even"].sum(), *[values["odd"].sum()] * 2] * 2
        assert [where for _, _, where in answers] == [reference.load().ctypes.data for reference in references]
        assert named.addr <= answers[0][2] < named.addr + named.size
        queue = context.Queue()
        process = context.Process(target=put_total, args=(references[2], queue))
        process.start()
        assert queue.get(timeout=60)[1] == values["odd"].sum()
        process.join()
        queue.close()
        queue.join_thread()


def put_total(reference: Reference, queue: Any) -> None:
    queue.put(total(reference))


HOSTILE_HEADERS = [
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': [('a', '<i4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 1" + b"0" * 80 + b"), }",
    b"{'descr': '<f8', 'fortran_order': 1, 'shape': (), }",
    b"{'descr': ('<f8', (1000000000, 1000000000)), 'fortran_order': False, 'shape': (), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"1," * 200 + b"), }",
    b"{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (), }",
    b"{'descr': 'T', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 1}",
    b"[" * 9000,
    b"-" * 9000 + b"1",
    b"{" * 50 + b"(" * 200,
    b"{'descr': " + b"[('a', " * 400 + b"'<f8'" + b")]" * 400 + b", 'fortran_order': False, 'shape': (1,)}",
    b"\xff\xfe",
]


@pytest.mark.parametrize("text", HOSTILE_HEADERS, ids=range(len(HOSTILE_HEADERS)))
@pytest.mark.parametrize("version", [1, 3])
def test_a_hostile_header_is_an_error_and_takes_no_memory(world: Path, text: bytes, version: int) -> None:
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    with region_of(b"\x93NUMPY" + bytes([version, 0]) + length + text + bytes(64)) as region:
        tracemalloc.start()
        try:
            with pytest.raises(NotAnArrayError):
                load(region)
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()


def check_hostile(region: mshare.Region) -> None:
    """Load what there is. All arrays lie inside of the region, and all of their items can be read."""
    for read in (load, load_dict):
        try:
            got: Any = read(region)
        except (NotAnArrayError, mshare.InvalidArgumentError):
            continue
        for array in got.values() if isinstance(got, dict) else [got]:
            low, high = numpy.lib.array_utils.byte_bounds(array) if array.nbytes else (region.addr, region.addr)
            assert region.addr <= low <= high <= region.addr + region.size
            assert not array.dtype.hasobject
            if array.nbytes:
                array.tobytes()


@cache
def valid_contents() -> list[bytes]:
    """Return the bytes of an array, of a dict by us, and of a dict by numpy."""
    structured = numpy.zeros(3, [("a", "<i4"), ("b", "S3")])
    members = {"x": numpy.arange(12.0).reshape(3, 4).T, "y": structured, "z": numpy.array(1)}
    file = io.BytesIO()
    numpy.savez(file, **members)  # type: ignore[arg-type]
    with save(None, members) as ours:
        return [saved_by_numpy(members["x"]), bytes(ours.buf), file.getvalue()]


@settings(SHARED, max_examples=150)
@given(st.data())
def test_damaged_bytes_never_lead_outside_of_the_region(world: Path, data: st.DataObject) -> None:
    content = bytearray(valid_contents()[data.draw(st.integers(0, 2), "content")])
    interesting = st.sampled_from([0, 1, 2, 255, 65535, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1])
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        back = data.draw(st.booleans(), "from the end")
        place = data.draw(st.integers(0, min(len(content), 700) - 1), "place")
        place = len(content) - 1 - place if back else place
        number = data.draw(st.one_of(interesting, st.integers(0, len(content))), "number")
        new = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([number.to_bytes(8, "little")[:width] for width in (1, 2, 4, 8)]),
            ),
            "bytes",
        )
        content[place : place + len(new)] = new[: len(content) - place]
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))), "length")
    with region_of(bytes(content[:cut])) as region:
        check_hostile(region)


DESCRIPTIONS = st.recursive(
    st.one_of(
        st.sampled_from(["<f8", "|O", "O", "T", "|V0", "|S0", "<U1", "S99999999", "<M8[as]", "i4,f8", "|b1", "V5", ""]),
        st.integers(-1, 99),
        st.text(max_size=5),
        st.none(),
    ),
    lambda inner: st.one_of(
        st.lists(st.tuples(st.sampled_from(["", "a", "b"]), inner), max_size=3),
        st.tuples(inner, st.lists(st.integers(-1, 1 << 70), max_size=3).map(tuple)),
        st.lists(st.tuples(st.tuples(st.text(max_size=3), st.text(max_size=3)), inner, st.just((2,))), max_size=2),
    ),
    max_leaves=6,
)


@settings(SHARED, max_examples=100)
@given(DESCRIPTIONS, st.lists(st.integers(-2, 1 << 66), max_size=4), st.booleans())
def test_hostile_descriptions_never_lead_outside_of_the_region(
    world: Path, description: Any, shape: list[int], fortran: bool
) -> None:
    text = repr({"descr": description, "fortran_order": fortran, "shape": tuple(shape)}).encode()
    with region_of(b"\x93NUMPY\3\0" + len(text).to_bytes(4, "little") + text + bytes(256)) as region:
        check_hostile(region)


def test_a_directory_that_claims_too_much_takes_no_memory(world: Path) -> None:
    with save("d", {"x": numpy.zeros(4)}) as region:
        content = bytearray(region.buf)
    end = len(content) - 22 - 20 - 56
    for length, start in ((1 << 62, 0), (200 << 20, 0), (1 << 40, 1 << 63)):
        changed = bytearray(content)
        changed[end + 40 : end + 56] = struct.pack("<2Q", length, start)
        with region_of(bytes(changed)) as hostile, pytest.raises(NotAnArrayError):
            load_dict(hostile)


def test_the_import_does_not_load_numpy() -> None:
    program = "import sys, mshare; assert not {'numpy', 'mshare.numpy'} & set(sys.modules); import mshare.numpy"
    subprocess.run([sys.executable, "-c", program], check=True)
    hidden = "import sys; sys.modules['numpy'] = None; import mshare.numpy"
    failed = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: mshare.numpy needs numpy: pip install 'mshare[numpy]'" in failed.stderr
