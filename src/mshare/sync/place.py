"""The bytes of an object in a region. May depend on: errors, mapping, region, units.

Every object begins with 64 bytes, the first 8 of which name its class. The object keeps the region mapped, as another
attachment would, also after the `Region` is closed.
"""

from __future__ import annotations

from .._core import mapping
from .._core.errors import (
    InvalidArgumentError,
    InvalidSizeError,
    NotALockError,
    ReadOnlyMappingError,
    RegionClosedError,
)
from .._core.region import Region
from .._core.units import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ALIGNMENT = 64
"""Bytes: the offsets of objects are multiples of this, so that no two objects share a cache line."""
HEAD_BYTES = 64
"""Bytes before an object's mutexes."""


class Place:
    """The memory of one object, which stays mapped while the place lives."""

    __slots__ = ("exporter", "head", "kind", "offset", "region_name", "what")

    def __init__(self, region: Region, offset: int, length: int, kind: int, what: str) -> None:
        """`length`: bytes of the object. `kind`: its first word. `what`: its name in messages.

        Raises `InvalidArgumentError`, `InvalidSizeError`, `ReadOnlyMappingError`, `RegionClosedError`, `NotALockError`.
        """
        if not isinstance(region, Region):
            raise TypeError(f"{what} lies in an mshare.Region, not in a {type(region).__name__}")
        at = whole(offset, "an offset, in bytes,")
        self.offset, self.kind, self.what, self.region_name = at, kind, what, region.name
        if at % ALIGNMENT or at < 0:
            raise InvalidArgumentError(
                f"offset {at} of {what} is not a multiple of {ALIGNMENT}", f"use {max(0, at - at % ALIGNMENT)}"
            )
        if at + length > region.size:
            raise InvalidSizeError(
                f"{what} of {length} bytes does not fit at byte {at} of region {region.name!r} of {region.size} bytes",
                "use a smaller offset or a larger region",
            )
        if region.readonly and not region.closed:
            raise ReadOnlyMappingError(
                f"{what} needs write access, and this process has region {region.name!r} attached read-only",
                "attach the region read-write",
            )
        with mapping.lock:
            area = region._area
            exporter = None if area is None or region.closed else area.export(region.size)
        if exporter is None:
            raise RegionClosedError(f"region {region.name!r} is closed", "attach it again")
        self.exporter = exporter
        self.head = memoryview(exporter).cast("B")[at : at + HEAD_BYTES].cast("Q")
        if any(self.head[:]) and self.head[0] != kind:  # in this order: another process may just be the first
            raise self.damaged()

    def damaged(self) -> NotALockError:
        """Return the exception for bytes that are not those of the object."""
        return NotALockError(
            f"the bytes at {self} are not those of {self.what}",
            "use an offset where all bytes are zero, or look which program wrote there",
        )

    @property
    def what_and_where(self) -> str:
        """The object and where it lies, for messages."""
        return f"{self.what} at {self}"

    def __str__(self) -> str:
        return f"byte {self.offset} of region {self.region_name!r}"


class Placed:
    """An object that lies in a region."""

    __slots__ = ("_place",)

    _place: Place

    @property
    def offset(self) -> int:
        """The byte of the region at which the object begins."""
        return self._place.offset

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"an mshare.{name} cannot be pickled: attach the region there, and make one at the same offset")
