"""The bytes of an object in a region. May depend on: errors, mapping, region, units.

Every object begins with a word of 8 bytes that names its class. The object keeps the region mapped, as another
attachment would, also after the `Region` is closed.
"""

from __future__ import annotations

from .._core import mapping
from .._core.errors import InvalidArgumentError, InvalidSizeError, ReadOnlyMappingError, RegionClosedError
from .._core.region import Region
from .._core.units import whole

ALIGNMENT = 64
"""Bytes: the offsets of objects are multiples of this, so that no two objects share a cache line."""


def exporter(region: Region, offset: int, length: int, what: str) -> tuple[mapping.Exporter, int]:
    """Return the memory of `region`, which stays mapped while the result lives, and the offset as an int.

    Raises `InvalidArgumentError`, `InvalidSizeError`, `ReadOnlyMappingError`, `RegionClosedError`.
    """
    if not isinstance(region, Region):
        raise TypeError(f"{what} lies in an mshare.Region, not in a {type(region).__name__}")
    at = whole(offset, "an offset, in bytes,")
    if at % ALIGNMENT or at < 0:
        raise InvalidArgumentError(
            f"offset {at} of {what} is not a multiple of {ALIGNMENT}", f"use {at - at % ALIGNMENT if at > 0 else 0}"
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
        made = None if area is None or region.closed else area.export(region.size)
    if made is None:
        raise RegionClosedError(f"region {region.name!r} is closed", "attach it again")
    return made, at
