"""The record that a region has in its own file, and the record that `info()` shows to people. Pure. May depend on:
geometry, typed.

A region is one file, so that it appears, moves and goes in one step, even if processes die in the meantime::

    0                      size_bytes                         file size - 4096        file size
    | the region's bytes   | zeros up to the file's unit      | record (one page)     |

The record lies behind the data, so that C, Rust or Go map the region from offset 0 with no library, and is never
inside an attachment of a backend that maps in units of 4 KiB. Layout (little endian): see `_LAYOUT`.
"""

from __future__ import annotations

import struct
import zlib

from .geometry import PAGE, PMD, PUD, USER_END, is_linked, page_tables, round_up
from .typed import NamedTuple

MAGIC = b"mshare\r\n"
VERSION = 1
RECORD_SIZE = PAGE
FLAG_FROZEN = 1
"""The region was made with `O_CREAT | O_RDONLY`: nobody may attach it read-write."""
FLAG_SPARSE = 2
"""The region was made with `reserve=False`: its memory comes on first touch, or by `Region.populate`."""

ATTACHED_BYTE = 1 << 62
"""Every attachment holds an open-file-description read lock (`F_OFD_SETLK`, `F_RDLCK`) on this byte of the file."""
NAME_BYTE = ATTACHED_BYTE + 1
"""A process that removes the name holds a write lock on this byte in the meantime."""

# magic, version, flags, size_bytes, addr, leaf_size, map_unit, created_ns, backend, length of reason; then reason, then
# at the end of the page the CRC-32 of all before it.
_LAYOUT = struct.Struct("<8sIIQQQQQ16sI")
_CRC = struct.Struct("<I")
_REASON_LIMIT = RECORD_SIZE - _LAYOUT.size - _CRC.size

_FILE_UNITS = {(PAGE, PAGE): PAGE, (PMD, PAGE): PAGE, (PMD, PMD): PMD, (PAGE, PUD): PAGE, (PMD, PUD): PAGE}
"""The file's unit for each pair of leaf size and unit of mappings that a backend has. On msharefs mappings come in
whole GiB and may reach beyond the end of the file; on other backends mappings end within the file."""


class RecordError(ValueError):
    """The page is not a valid record: not a region, damaged, or from a newer version."""


class NoRecordError(RecordError):
    """The page does not even claim to be a record: the file may be a region made without this library."""


class Record(NamedTuple):
    """The facts in a region's file. Other facts (mode, owner) are those of the file itself."""

    size_bytes: int
    addr: int
    leaf_size: int
    map_unit: int
    """The unit in bytes of the region's mappings; see `file_unit`."""
    created_ns: int
    backend: str
    reason: str
    frozen: bool = False
    reserved: bool = True
    """All memory was taken at creation."""

    @property
    def file_unit(self) -> int:
        """The unit in bytes of the file's size."""
        return _FILE_UNITS[self.leaf_size, self.map_unit]

    @property
    def is_linked(self) -> bool:
        """True if processes map the region by linking (see `geometry.is_linked`)."""
        return is_linked(self.map_unit)

    @property
    def align(self) -> int:
        """The unit in bytes of the region's addresses."""
        return max(self.leaf_size, self.map_unit)

    def encode(self) -> bytes:
        """Return the record as one page of bytes. `reason` is cut to what fits, at a character, and its unprintable
        characters (from a path, say) become `?`."""
        printable = "".join(char if char.isprintable() else "?" for char in self.reason)
        reason = printable.encode()[:_REASON_LIMIT].decode(errors="ignore").encode()
        head = _LAYOUT.pack(
            MAGIC,
            VERSION,
            (FLAG_FROZEN if self.frozen else 0) | (0 if self.reserved else FLAG_SPARSE),
            self.size_bytes,
            self.addr,
            self.leaf_size,
            self.map_unit,
            self.created_ns,
            self.backend.encode(),
            len(reason),
        )
        body = (head + reason).ljust(RECORD_SIZE - _CRC.size, b"\0")
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def decode(cls, page: bytes, file_size: int) -> Record:
        """Return the record in `page`, the last 4,096 bytes of a file of `file_size` bytes.

        The file may come from an enemy: every number is checked against the others before any process maps by it.
        Raises `RecordError` with the reason.
        """
        if len(page) != RECORD_SIZE or page[: len(MAGIC)] != MAGIC:
            raise NoRecordError("it carries no region record")
        body = page[: -_CRC.size]
        if _CRC.unpack(page[-_CRC.size :])[0] != zlib.crc32(body):
            raise RecordError("its region record is damaged")
        _, version, flags, size, addr, leaf, map_unit, created, backend, length = _LAYOUT.unpack_from(page)
        if version != VERSION or flags & ~(FLAG_FROZEN | FLAG_SPARSE):
            raise RecordError(f"its region record is of version {version}, this library reads {VERSION}")
        file_unit = _FILE_UNITS.get((leaf, map_unit))
        # Memory that is mapped beyond the file's end (msharefs) is also beyond `size`: no view ever shows it.
        sane = (
            0 < size <= file_size - RECORD_SIZE
            and file_unit is not None
            and addr % max(leaf, map_unit) == 0
            and 0 < addr < addr + round_up(size, map_unit) <= USER_END
            and file_size % file_unit == 0
            and round_up(size, file_unit) <= file_size
            and length <= _REASON_LIMIT
        )
        if not sane:
            raise RecordError("its region record contradicts the file")
        reason = body[_LAYOUT.size : _LAYOUT.size + length]
        name = backend.rstrip(b"\0")
        if not name or not all(0x20 < byte < 0x7F for byte in name):
            raise RecordError("its region record names no backend")
        try:
            text = reason.decode()
        except UnicodeDecodeError:
            raise RecordError("its region record is not text where it should be") from None
        if not text.isprintable():  # the text is shown on terminals
            raise RecordError("its region record has control characters in its text")
        return cls(
            size_bytes=size,
            addr=addr,
            leaf_size=leaf,
            map_unit=map_unit,
            created_ns=created,
            backend=name.decode("ascii"),
            reason=text,
            frozen=bool(flags & FLAG_FROZEN),
            reserved=not flags & FLAG_SPARSE,
        )


def file_size(size_bytes: int, file_unit: int) -> int:
    """Return the bytes of the file that holds a region of `size_bytes`, its record included, in whole units of
    files (`Capabilities.file_unit`, `Record.file_unit`)."""
    return round_up(size_bytes + RECORD_SIZE, file_unit)


class RegionInfo(NamedTuple):
    """A region as it was at one moment. Immutable; ask again for a fresh one."""

    name: str
    size: int
    """The size in bytes that the creator asked for."""
    mode: int
    """Permission bits of the file."""
    uid: int
    """Owner: the uid that created the region (or got it by `chown`)."""
    backend: str
    leaf_size: int
    """Bytes that one last-level page-table entry maps: 4,096 or 2,097,152. On thp without reserved memory, only whole
    blocks of 2 MiB that `Region.populate` has filled have such entries."""
    map_unit: int
    """The unit in bytes to which the region's mappings are rounded up."""
    addr: int
    """The address at which every process attaches the region."""
    pids: tuple[int, ...]
    """Processes that map the region, by their numbers in /proc, in order, as far as this one may read their maps."""
    orphan: bool
    """True if no process of any user is attached: the kernel keeps a lock per attachment."""
    created: float
    """The time of creation in seconds since the epoch."""
    reason: str
    """The reason for the choice of the backend at creation."""
    frozen: bool
    """True if nobody may attach the region read-write (`O_CREAT | O_RDONLY`)."""
    reserved: bool
    """True if all memory was taken at creation. False for `reserve=False`: memory comes on first touch, or by
    `Region.populate`. A region of a program without this library is reserved if it had all its memory when its record
    was made up."""
    named: bool
    """True while the region has a name. The memory of a region without one goes with its last attachment or handle."""
    path: str
    """The region's file, for programs that map it without this library; empty if the region has no name."""
    memory_bytes: int
    """Bytes of memory that the region's pages hold now, its record included: `mshare_info.pages` on msharefs, else
    `st_blocks` of stat(2), where tmpfs counts swapped pages as well. Once the name has been removed, the figure is the
    one from when this process attached."""
    shared_table_bytes: int | None
    """Bytes of page tables that belong to the region and are paid once for all processes (`mshare_info.table_bytes`,
    msharefs only). None if every process has its own tables, or if this process may not ask."""
    charged_bytes: int | None
    """Bytes of the mount's `size=` that the region holds (`mshare_info.charged_bytes`, msharefs only): its pages and
    their page tables, made or promised. None as for `shared_table_bytes`."""
    huge_pages: int | None
    """Blocks of 2 MiB that are one page (`mshare_info.huge_pages`, msharefs only). None as for `shared_table_bytes`."""
    huge_fallbacks: int | None
    """Blocks that should have become one page of 2 MiB and got pages of 4 KiB, for lack of such memory or of `size=`
    (`mshare_info.huge_fallbacks`, msharefs only). None as for `shared_table_bytes`."""

    @property
    def page_table_bytes(self) -> int:
        """Bytes of page tables of one attached process that has touched all of the region, by arithmetic (see
        `geometry.page_tables`). `VmPTE` in /proc/PID/status is the measured figure. If processes link the region's
        tables (msharefs), a process pays for the tables that lead to them. The figures come from the record and not
        from a backend, because the file may name a backend that this version does not have. If the region is not
        reserved, its pages may be small ones (thp), and the figure is an upper bound."""
        leaf_size = self.leaf_size if self.reserved or self.map_unit == PMD else PAGE
        tables = page_tables(round_up(self.size, self.map_unit), leaf_size=leaf_size, addr=self.addr)
        return tables.pud_pages * PAGE if is_linked(self.map_unit) else tables.bytes


class HeldRegion(NamedTuple):
    """A region that has no name any more, and that processes still hold: an older version, or a removed region."""

    name: str
    """The name that the region had, as the maps of its users show it. Empty if no map shows one: the kernel shows none
    to a region's creator, and forgets it when the directory that had it is gone."""
    size: int
    """Bytes that a process maps, in whole units of mappings."""
    addr: int
    """The address in the first of the processes."""
    pids: tuple[int, ...]
    """The processes that map the region, as far as this one may look, in order. Never empty."""
    superseded: bool
    """True if the name means a newer region now."""
