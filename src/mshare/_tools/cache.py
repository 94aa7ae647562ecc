"""The directory where mshare keeps what it has compiled on this machine. May depend on: nothing.

A file that root loads is built by root, in a directory that only root can write to. A user's own directory is for
that user alone. A file that another user could have put there is never loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

ROOTS_OWN = Path("/var/cache/mshare")


def cache_directory() -> Path:
    """Return where this user's compiled files are kept: /var/cache/mshare for root, else `$XDG_CACHE_HOME/mshare`."""
    if os.geteuid() == 0:
        return ROOTS_OWN
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mshare"


def digest(source: Path, products: Sequence[str] = ()) -> str:
    """Return a name for the files under `source`: another source has another name. Files whose paths match one of the
    patterns `products` do not count."""
    found = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        inside = path.relative_to(source)
        if not any(inside.match(pattern) for pattern in products):
            found.update(f"{inside}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def is_safe(path: Path) -> bool:
    """Tell whether nobody but this user and root can have put that file there. Its directory and the two directories
    above count, which are the parts of the cache."""
    for place in (path, path.parent, path.parent.parent, path.parent.parent.parent):
        found = os.lstat(place)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            return False
    return True
