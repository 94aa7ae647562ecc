"""Loading arrays of a region, zero copy. May depend on: attachment, errors, handle, region, npy, archive, numpy."""

from __future__ import annotations

import numpy

from .._core.attachment import attach
from .._core.errors import InvalidArgumentError, ReadOnlyMappingError
from .._core.handle import Handle
from .._core.region import Region
from . import archive, npy
from .npy import Array, NotAnArrayError


def load(source: str | Handle | Region, member: str | None = None, *, readonly: bool = True) -> Array:
    """Return an array that a region holds, zero copy: the array's items are the region's bytes.

    The array, and every view of it, keeps the region mapped, also after its name was removed. Arrays that `save` has
    saved begin at a multiple of 64 bytes.

    - `source`: the region's name, a handle, or a `Region`. Attach yourself if you need the options of `mshare.attach`,
      such as `owner` and `require_sealed`, and pass the `Region`.
    - `member`: the name of one of several arrays, or None where the region holds one array.
    - `readonly`: False gives an array that can be written to, where the rights of the region allow.

    Raises `NotAnArrayError` if the region holds something else, or hostile or damaged bytes; `InvalidArgumentError`
    for a missing or unknown `member`, with the names that there are; the errors of `mshare.attach`. Other processes
    that may write to the region can change the items at any time. numpy does not expect that: copy the array
    (`array.copy()`) before you work with it, or ask for a sealed region, if you do not trust those processes.
    """
    found = _Bytes(source, readonly)
    if not found.is_archive:
        if member is not None:
            raise InvalidArgumentError(f"{found.what} holds one array, without a name", "omit the member's name")
        return found.array(0, len(found.view), found.what)
    places = archive.members(found.view, found.what)
    if member not in places:
        raise InvalidArgumentError(
            f"{found.what} has no array {member!r}" if member is not None else f"{found.what} holds several arrays",
            f"use load_dict, or the name of one of them: {', '.join(sorted(places)):.500}",
        )
    return found.array(*places[member], f"array {member!r} of {found.what}")


def load_dict(source: str | Handle | Region, *, readonly: bool = True) -> dict[str, Array]:
    """Return all arrays of a region by their names, zero copy. Arguments, errors and hazards are those of `load`."""
    found = _Bytes(source, readonly)
    if not found.is_archive:
        raise NotAnArrayError(f"{found.what} does not hold arrays by name", "use load if it holds one array")
    places = archive.members(found.view, found.what)
    return {name: found.array(*place, f"array {name!r} of {found.what}") for name, place in places.items()}


class _Bytes:
    """The bytes of a region."""

    def __init__(self, source: str | Handle | Region, readonly: bool) -> None:
        region = source if isinstance(source, Region) else attach(source, readonly=readonly)
        if region.readonly and not readonly:
            raise ReadOnlyMappingError("the region is attached read-only", "attach it read-write, or use readonly=True")
        self.what = f"region {region.name!r}" if region.name else "the region"
        self.view = region.buf.toreadonly() if readonly else region.buf
        self.is_archive = self.view[:4] == archive.MAGIC

    def array(self, start: int, end: int, what: str) -> Array:
        """Return the array whose `.npy` file lies between the bytes `start` and `end`."""
        found = npy.parse(self.view[start:end], what)
        flat = numpy.frombuffer(self.view, "u1")  # holds the view, which holds the mapping
        try:
            return numpy.ndarray(found.shape, found.dtype, flat, start + found.start, order=found.order)  # type: ignore[arg-type]
        except (ValueError, OverflowError) as error:  # too many dimensions, or too long ones where another is 0
            raise NotAnArrayError(f"{what} has an impossible shape: {error}", "have it saved again") from error
