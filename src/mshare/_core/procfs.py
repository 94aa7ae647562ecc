"""Parsers of /proc text: bytes in, records out. Pure. May depend on: geometry, typed.

Every parser accepts all text of a hostile or dying process: paths with spaces, newlines (the kernel escapes them as
`\\012`), ` (deleted)`, lines cut short. A line in another format is skipped, never guessed at.
Source: Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

from collections.abc import Iterator

from .geometry import Span
from .typed import NamedTuple


class FileId(NamedTuple):
    """A file as /proc names it: device number (as `os.makedev`) and inode."""

    dev: int
    ino: int


class Vma(NamedTuple):
    """One line of /proc/PID/maps: a virtual memory area."""

    span: Span
    perms: str
    offset: int
    """Bytes from the start of the file."""
    file: FileId
    """(0, 0) for anonymous memory."""
    path: bytes


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    dev: int
    mount_point: str
    fs_type: str
    options: frozenset[str]
    """Mount and super-block options together."""


def make_dev(major: int, minor: int) -> int:
    """Return the device number the C library makes of `major` and `minor` (so that it equals `st_dev`)."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12 | (major & ~0xFFF) << 32


def parse_maps(text: bytes) -> Iterator[Vma]:
    """Yield the areas in the text of /proc/PID/maps, in the text's order, which is that of addresses."""
    for line in text.split(b"\n"):
        vma = parse_maps_line(line)
        if vma is not None:
            yield vma


def parse_maps_line(line: bytes) -> Vma | None:
    """Return the area in one line of /proc/PID/maps, None for any other line."""
    fields = line.split(None, 5)
    if len(fields) < 5:
        return None
    try:
        start, _, end = fields[0].partition(b"-")
        major, _, minor = fields[3].partition(b":")
        return Vma(
            Span(int(start, 16), int(end, 16)),
            fields[1].decode("ascii"),
            int(fields[2], 16),
            FileId(make_dev(int(major, 16), int(minor, 16)), int(fields[4])),
            fields[5] if len(fields) == 6 else b"",
        )
    except ValueError:
        return None


def parse_fields_kb(text: bytes) -> dict[str, int]:
    """Return the `Name:  123 kB` and `Name:  123` lines of /proc/PID/status, /proc/meminfo or smaps_rollup as
    bytes (for kB) or plain numbers; lines of other shapes are left out."""
    found = {}
    for line in text.split(b"\n"):
        name, colon, rest = line.partition(b":")
        words = rest.split()
        if not colon or not words or not words[0].isdigit() or len(words) > 2:
            continue
        factor = 1024 if words[1:] == [b"kB"] else 1
        found[name.strip().decode("ascii", "replace")] = int(words[0]) * factor
    return found


def parse_stat_faults(text: bytes) -> int:
    """Return `minflt`, the minor faults so far, from the text of /proc/PID/stat.

    Raises ValueError if the text is cut. The command name may hold spaces and brackets, so count from its end.
    """
    fields = text.rpartition(b")")[2].split()
    if len(fields) < 8:
        raise ValueError("/proc/PID/stat is cut short")
    return int(fields[7])


def parse_stat_start(text: bytes) -> int:
    """Return `starttime`, the start in clock ticks (`SC_CLK_TCK`) since the machine's start, from the text of
    /proc/PID/stat. Raises ValueError if the text is cut."""
    fields = text.rpartition(b")")[2].split()
    if len(fields) < 20:
        raise ValueError("/proc/PID/stat is cut short")
    return int(fields[19])


def parse_mountinfo(text: bytes, fs_type: str | None = None) -> list[Mount]:
    """Return the mounts in the text of /proc/self/mountinfo, in order; later ones cover earlier ones.

    With `fs_type` the result has only mounts of that type. The call costs almost nothing if there is none.
    """
    wanted = b" - " + (fs_type or "").encode()
    if wanted not in text:
        return []
    mounts = []
    for line in text.split(b"\n"):
        if wanted not in line:
            continue
        left, dash, right = line.partition(b" - ")
        head, tail = left.split(b" "), right.split(b" ")
        if not dash or len(head) < 6 or len(tail) < 3:
            continue
        major, _, minor = head[2].partition(b":")
        try:
            dev = make_dev(int(major), int(minor))
        except ValueError:
            continue
        if fs_type is not None and tail[0] != fs_type.encode():
            continue
        options = frozenset((head[5] + b"," + tail[2]).decode("utf-8", "replace").split(","))
        mounts.append(Mount(dev, unescape(head[4]), tail[0].decode("ascii", "replace"), options))
    return mounts


def unescape(text: bytes) -> str:
    r"""Return a path from /proc with its octal escapes (`\040` for a space) undone."""
    first, *rest = text.split(b"\\")
    out = first
    for part in rest:
        digits = part[:3]
        if len(digits) == 3 and all(c in b"01234567" for c in digits) and int(digits, 8) < 256:
            out += bytes([int(digits, 8)]) + part[3:]
        else:
            out += b"\\" + part
    return out.decode("utf-8", "surrogateescape")


class Status(NamedTuple):
    """The identity of a process in /proc/PID/status."""

    name: str
    """`Name`: up to 15 bytes that the process chose, newline and backslash escaped by the kernel."""
    uid: int
    """Effective."""
    pid_namespaces: int
    """The number of PID namespaces by which the process is deeper than ours (`NSpid`, Linux 4.1)."""
    vmpte: int | None
    """`VmPTE` in bytes; None for a task without memory: a kernel thread, a zombie, a process that is just ending."""
    zombie: bool
    """The main thread has ended and waits to be collected. Other threads may go on, with all the memory."""
    tgid: int
    """The process that the thread belongs to; 0 if the text does not say."""


def parse_status(text: bytes) -> Status:
    """Return the identity of a process from the text of /proc/PID/status. Raises ValueError if the text is cut."""
    found: dict[bytes, list[bytes]] = {}
    for line in text.split(b"\n"):
        name, colon, rest = line.partition(b":\t")
        if colon and name in (b"Name", b"State", b"Tgid", b"Uid", b"NSpid", b"VmPTE"):
            found[name] = [rest] if name == b"Name" else rest.split()
    if b"Name" not in found or len(found.get(b"Uid", ())) < 2:
        raise ValueError("/proc/PID/status is cut short")
    vmpte = found.get(b"VmPTE")
    return Status(
        found[b"Name"][0].decode("utf-8", "surrogateescape"),
        int(found[b"Uid"][1]),
        max(0, len(found.get(b"NSpid", ())) - 1),
        int(vmpte[0]) * 1024 if vmpte and len(vmpte) == 2 else None,
        found.get(b"State", [])[:1] == [b"Z"],
        int((found.get(b"Tgid") or [b"0"])[0]),
    )


class SmapsArea(NamedTuple):
    """The facts that /proc/PID/smaps adds to one line of maps."""

    start: int
    page: int
    """`KernelPageSize`: bytes of the area's pages."""
    pmd_mapped: int
    """Bytes mapped with 2 MiB leaves: `AnonHugePages`, `ShmemPmdMapped` and `FilePmdMapped` together."""


def parse_smaps(text: bytes) -> Iterator[SmapsArea]:
    """Yield the areas in the text of /proc/PID/smaps that say their page size."""
    start, page, huge = -1, 0, 0
    for line in text.split(b"\n"):
        words = line.split(None, 2)
        if len(words) < 2:
            continue
        if not words[0].endswith(b":"):
            if page:
                yield SmapsArea(start, page, huge)
            page, huge = 0, 0
            try:
                start = int(words[0].partition(b"-")[0], 16)
            except ValueError:
                start = -1
        elif start >= 0 and words[1].isdigit():
            if words[0] == b"KernelPageSize:":
                page = int(words[1]) * 1024
            elif words[0] in (b"AnonHugePages:", b"ShmemPmdMapped:", b"FilePmdMapped:"):
                huge += int(words[1]) * 1024
    if page:
        yield SmapsArea(start, page, huge)


class CgroupPath(NamedTuple):
    """One line of /proc/self/cgroup. `controllers` is empty for the unified (v2) hierarchy."""

    controllers: frozenset[str]
    path: str


def parse_cgroup(text: bytes) -> list[CgroupPath]:
    """Return the control groups in the text of /proc/PID/cgroup."""
    groups = []
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        parts = line.split(":", 2)
        if len(parts) == 3:
            groups.append(CgroupPath(frozenset(filter(None, parts[1].split(","))), parts[2]))
    return groups


def parse_locks(text: bytes, offset: int) -> set[FileId]:
    """Return the files on which an open file description holds a lock from byte `offset` on, from the text of
    /proc/locks. A line in another format is skipped."""
    found = set()
    for line in text.split(b"\n"):
        words = line.split()
        if len(words) != 8 or words[1] != b"OFDLCK" or words[6] != str(offset).encode():
            continue
        try:
            major, minor, ino = words[5].split(b":")
            found.add(FileId(make_dev(int(major, 16), int(minor, 16)), int(ino)))
        except ValueError:
            continue
    return found


def parse_buddyinfo(text: bytes) -> dict[int, int]:
    """Return how many free pieces of each order there are, over all zones, from the text of /proc/buddyinfo. A piece of
    order N is 2 to the N pages in a row."""
    found: dict[int, int] = {}
    for line in text.split(b"\n"):
        words = line.partition(b"zone")[2].split()[1:]
        if all(word.isdigit() for word in words):
            for order, word in enumerate(words):
                found[order] = found.get(order, 0) + int(word)
    return found


def parse_pressure(text: bytes) -> float | None:
    """Return the percentage of the last 10 seconds in which some process waited, from the text of a file of
    /proc/pressure; None if the text does not say. Source: Documentation/accounting/psi.rst."""
    for line in text.split(b"\n"):
        kind, *fields = line.split()[:2] or [b""]
        if kind == b"some" and fields and fields[0].startswith(b"avg10="):
            try:
                return float(fields[0][6:])
            except ValueError:
                return None
    return None
