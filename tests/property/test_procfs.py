"""/proc text, as the kernel writes it and as no kernel would."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from mshare._core.geometry import PAGE
from mshare._core.procfs import (
    make_dev,
    parse_buddyinfo,
    parse_cgroup,
    parse_fields_kb,
    parse_maps,
    parse_mountinfo,
    parse_pressure,
    parse_smaps,
    parse_stat_faults,
    parse_status,
    unescape,
)
from mshare.testing.strategies import paths, proc_text


@given(proc_text)
@example(b"0-1 r-xp 0 0:0 0\n\n0-1 r-xp 0 :0 0\n-1 \xff 0 0:0 0")
@example(b"0-1 r-xp 0 99999999999999999999999:0 -1")
@example(b"VmPTE: \xb2 kB")
@example(b"0::\xff\n\xff:\xff:\xff")
def test_no_text_crashes_a_parser(text: bytes) -> None:
    list(parse_maps(text))
    parse_fields_kb(text)
    parse_mountinfo(text)
    parse_buddyinfo(text)
    parse_cgroup(text)
    parse_pressure(text)
    list(parse_smaps(text))
    unescape(text)
    for parse in (parse_stat_faults, parse_status):
        with suppress(ValueError):
            parse(text)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1 << 35),
            st.integers(1, 1 << 20),
            st.sampled_from(("r--s", "rw-s", "r-xp", "---p")),
            st.integers(0, 1 << 40),
            st.integers(0, 4095),
            st.integers(0, 255),
            st.integers(0, (1 << 64) - 1),
            paths,
        )
    )
)
def test_maps_lines_are_read_as_they_are_written(
    lines: list[tuple[int, int, str, int, int, int, int, bytes]],
) -> None:
    text = b"".join(
        f"{start * PAGE:08x}-{(start + pages) * PAGE:08x} {perms} {offset:08x} {major:02x}:{minor:02x} {ino} ".encode()
        + path.rjust(len(path) + 20)
        + b"\n"
        for start, pages, perms, offset, major, minor, ino, path in lines
    )
    read = list(parse_maps(text))
    assert len(read) == len(lines)
    for vma, (start, pages, perms, offset, major, minor, ino, path) in zip(read, lines, strict=True):
        assert vma.span == (start * PAGE, (start + pages) * PAGE)
        assert (vma.perms, vma.offset, vma.path) == (perms, offset, path)
        assert vma.file == (os.makedev(major, minor), ino)


@given(st.integers(0, (1 << 31) - 1), st.integers(0, (1 << 31) - 1))
def test_device_numbers_are_those_of_the_c_library(major: int, minor: int) -> None:
    assert make_dev(major, minor) == os.makedev(major, minor)


@given(st.binary().filter(lambda raw: b"\0" not in raw))
def test_escapes_are_undone(raw: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in raw)
    assert os.fsencode(unescape(escaped)) == raw


@given(st.integers(0, 1 << 50), st.text("abc ()0", max_size=15))
def test_faults_are_counted_from_the_end_of_the_name(faults: int, name: str) -> None:
    text = f"1 ({name}) S 1 1 1 0 -1 4194560 {faults} 0 0 0".encode()
    assert parse_stat_faults(text) == faults


@given(st.dictionaries(st.text("AbC_()", min_size=1), st.tuples(st.integers(0, 1 << 50), st.booleans())))
def test_fields_are_bytes(fields: dict[str, tuple[int, bool]]) -> None:
    text = "".join(f"{name}:\t{number:8d}{' kB' if kb else ''}\n" for name, (number, kb) in fields.items())
    expected = {name: number * (1024 if kb else 1) for name, (number, kb) in fields.items()}
    assert parse_fields_kb(text.encode()) == expected


def test_own_status_and_smaps_agree_with_other_sources() -> None:
    status = parse_status(Path("/proc/self/status").read_bytes())
    assert status.name == Path("/proc/self/comm").read_text().rstrip("\n")
    assert status.uid == os.geteuid()
    assert status.vmpte == parse_fields_kb(Path("/proc/self/status").read_bytes())["VmPTE"]
    starts = [area.start for area in parse_smaps(Path("/proc/self/smaps").read_bytes())]
    assert {vma.span.start for vma in parse_maps(Path("/proc/self/maps").read_bytes())} >= set(starts[:5])
    assert {area.page for area in parse_smaps(Path("/proc/self/smaps").read_bytes())} == {PAGE}


@given(
    st.binary(max_size=15).filter(lambda raw: not set(raw) & set(b"\n\0")),
    st.integers(0, (1 << 32) - 1),
    st.integers(1, 4),
    st.none() | st.integers(0, 1 << 40),
)
def test_status_is_read_as_it_is_written(name: bytes, uid: int, depth: int, vmpte_kb: int | None) -> None:
    pids = b"\t".join(b"%d" % (4711 - level) for level in range(depth))
    text = b"Name:\t%s\nUmask:\t0022\nUid:\t1\t%d\t3\t4\nNSpid:\t%s\n" % (name, uid, pids)
    if vmpte_kb is not None:
        text += b"VmPTE:\t%8d kB\n" % vmpte_kb
    status = parse_status(text)
    assert os.fsencode(status.name) == name
    assert (status.uid, status.pid_namespaces) == (uid, depth - 1)
    assert status.vmpte == (None if vmpte_kb is None else vmpte_kb * 1024)


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.sampled_from((4, 2048)), st.integers(0, 512)), max_size=4))
def test_smaps_is_read_as_it_is_written(areas: list[tuple[int, int, int]]) -> None:
    text = b"".join(
        b"%x-%x rw-s 00000000 00:01 7      /memfd:a: b (deleted)\nSize: 8 kB\nKernelPageSize: %d kB\n"
        b"AnonHugePages: %d kB\nShmemPmdMapped: 1 kB\nFilePmdMapped: 0 kB\nVmFlags: rd wr sh\n"
        % (start * PAGE, (start + 1) * PAGE, page, huge)
        for start, page, huge in areas
    )
    assert [tuple(area) for area in parse_smaps(text)] == [
        (start * PAGE, page * 1024, (huge + 1) * 1024) for start, page, huge in areas
    ]


@given(st.lists(st.lists(st.integers(0, 1 << 20), min_size=11, max_size=11), max_size=4))
def test_buddyinfo_is_added_up_over_all_zones(zones: list[list[int]]) -> None:
    text = b"".join(
        b"Node %d, zone %8s %s \n" % (number, b"DMA32", b" ".join(b"%6d" % free for free in orders))
        for number, orders in enumerate(zones)
    )
    assert parse_buddyinfo(text) == {order: sum(column) for order, column in enumerate(zip(*zones, strict=True))}


def test_pressure_is_that_of_some_in_ten_seconds() -> None:
    text = b"some avg10=%s avg60=1.00 avg300=0.10 total=29627\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=1\n"
    assert parse_pressure(text % b"12.34") == 12.34
    assert parse_pressure(text % b"much") is None
    assert parse_pressure(b"full avg10=9.00 avg60=0.00 avg300=0.00 total=1\n") is None


def test_own_buddyinfo_is_memory_of_this_machine() -> None:
    free = sum(count << order for order, count in parse_buddyinfo(Path("/proc/buddyinfo").read_bytes()).items()) * PAGE
    assert 0 < free <= parse_fields_kb(Path("/proc/meminfo").read_bytes())["MemTotal"]
