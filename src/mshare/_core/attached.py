"""The attachment of one `Region`: the state that must be right until the region is really freed. May depend on:
mapping, handle.

Facts: when the garbage collector ends a cycle, it clears the weak references to each `Region` in the cycle before any
finalizer runs. A finalizer may then use that region, or call `mshare_unlink` with its name.
Consequence: a table that knows regions by weak references has already forgotten an attachment when a finalizer asks.
Decision: the table knows this inner object. Only an `anchor` of the region holds the object, so that the collector
never sees the object as part of a cycle. The object is freed with the region, after all finalizers.
"""

from __future__ import annotations

import weakref

from . import mapping
from .handle import Handle


class Attached(mapping.Owner):
    """The mapping that one `Region` owns, and the resources that end with the mapping."""

    def __init__(self) -> None:
        self.closed = False
        self.handle: Handle | None = None
        """The handle of a region without a name, for `Region.handle`. It keeps the region alive; only we close it."""
        self._exporter: mapping.Exporter | None = None
        """The exporter of all views, made for the first view."""
        self._watch: weakref.ref[mapping.Exporter] | None = None
        """The exporter, even while only views hold it."""

    def exporter(self, size_bytes: int) -> mapping.Exporter | None:
        """Return the exporter of views; None if this is closed. Under `mapping.lock`, as all methods that follow."""
        area = self.area
        exporter = self._exporter or self._viewed()
        if exporter is None and area is not None and not self.closed:
            exporter = area.export(size_bytes)
            self._watch = None if exporter is None else weakref.ref(exporter)
        self._exporter = None if self.closed else exporter
        return self._exporter

    def _viewed(self) -> mapping.Exporter | None:
        return None if self._watch is None else self._watch()

    def without_views(self) -> bool:
        """Release the exporter. Return False, with nothing changed, if views keep the exporter alive."""
        self._exporter = None
        self._exporter = self._viewed()
        return self._exporter is None

    def close(self) -> bool:
        """Close the attachment. If there are views, return False and change nothing."""
        before, self.closed = self.closed, True  # so that no thread makes a view in between
        try:
            if not self.without_views():
                self.closed = before
                return False
        except BaseException:
            self.closed = before
            raise
        self.let_go()
        return True

    def let_go(self) -> None:
        """Close the attachment. Views keep the memory mapped."""
        self.closed = True
        self._exporter = None
        handle = self.handle
        if handle is not None:
            handle.close()
        self.leave()
