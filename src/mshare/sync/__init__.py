"""Locks in regions, for processes and threads, that survive the death of their owner.

>>> import mshare
>>> with mshare.create("docs-sync", 4096) as region:
...     lock = mshare.Lock(region, 0)
...     with lock:
...         region.buf[128] = 1
>>> mshare.unlink("docs-sync")

Each object lies at an offset of a region that is attached read-write. Bytes that are all zero become the object at its
first use, in any process, and no process has to be the first. `import mshare` does not load this package; the names
`mshare.Lock` and so on do. A program that gives up the right to read files loads the package first.
"""

# General layout: place (an object's bytes in a region)  ->  mutex (a robust mutex, waiting)  ->  lock, rwlock,
# semaphore, counter; and event, which needs no mutex.

from .counter import Counter
from .event import Event
from .lock import Lock
from .rwlock import RWLock
from .semaphore import Semaphore

__all__ = ["Counter", "Event", "Lock", "RWLock", "Semaphore"]
