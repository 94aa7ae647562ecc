"""What one `Region` has attached: all that has to be right until the region is really freed. May depend on: mapping,
handle.

Facts: when the garbage collector ends a cycle, it clears the weak references to each `Region` in the cycle before any
finalizer runs. A finalizer may then use that region, or call `mshare_unlink` with its name.
Consequence: a table that knows regions by weak references no longer knows what is attached when a finalizer asks.
Decision: the table knows this inner object. Only an `anchor` of the region holds it, so that the collector never sees
it as part of a cycle. It is freed with the region, after all finalizers.
"""

from __future__ import annotations

import weakref

from . import mapping
from .handle import Handle


class Attached(mapping.Owner):
    """The mapping that one `Region` owns, and what is to be given back with it."""

    def __init__(self) -> None:
        self.closed = False
        self.handle: Handle | None = None
        """Of a region without a name: kept for `Region.handle`, and to keep the region alive. Nobody else closes it."""
        self._exporter: mapping.Exporter | None = None
        """What all views hang on; made for the first."""
        self._watch: weakref.ref[mapping.Exporter] | None = None
        """The exporter, also while it is only views that hold it."""

    def exporter(self, size_bytes: int) -> mapping.Exporter | None:
        """Return what views hang on; None if this is closed. Under `mapping.lock`, as all that follows."""
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
        """Let go of the exporter; False, with nothing changed, if views keep it alive."""
        self._exporter = None
        self._exporter = self._viewed()
        return self._exporter is None

    def close(self) -> bool:
        """Close it, unless there are views: False then, with nothing changed."""
        before, self.closed = self.closed, True  # so that nobody makes a view in between
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
        """Close it, whatever views there are: they keep the memory mapped."""
        self.closed = True
        self._exporter = None
        handle = self.handle
        if handle is not None:
            handle.close()
        self.leave()
