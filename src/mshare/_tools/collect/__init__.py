"""Takes snapshots of who maps what on this machine. May depend on: geometry, procfs, linux, scan, roots.

- `collector`: the processes, one after the other
- `objects`: what they map, each object once
- `system`: the machine, and what cannot be seen from here
"""

from .collector import Choice, Progress, collect

__all__ = ["Choice", "Progress", "collect"]
