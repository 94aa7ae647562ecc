"""References to arrays, for other processes. May depend on: handle, load, npy."""

from __future__ import annotations

from .._core.handle import Handle
from .load import load
from .npy import Array


class Reference:
    """The name of an array, which other processes load instead of getting a copy of the items.

    A pickle of a reference has some 100 bytes, and the process that unpickles it calls `load`. A reference by name
    loads what the name means at that moment. A reference by handle keeps the region alive, means that region for good,
    and can be sent by `multiprocessing` alone, as an argument or through a pool or queue; each pickle works once.
    """

    __slots__ = ("member", "source")

    def __init__(self, source: str | Handle, member: str | None = None) -> None:
        """`source`: the region's name, or a handle, which has to stay open.
        `member`: the array's name in a region with several, else None. Nothing is looked up here."""
        self.source, self.member = source, member

    def load(self) -> Array:
        """Attach the region read-only and return the array, as `mshare.numpy.load` does. Each call attaches again."""
        return load(self.source, self.member)

    def __reduce__(self) -> tuple[type[Reference], tuple[str | Handle, str | None]]:
        return Reference, (self.source, self.member)

    def __repr__(self) -> str:
        member = "" if self.member is None else f", {self.member!r}"
        return f"mshare.numpy.Reference({self.source!r}{member})"
