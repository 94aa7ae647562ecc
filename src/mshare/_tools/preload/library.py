"""The preload library: found in the cache, or built from the C source that comes with this package.
May depend on: cache, errors.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from ..._core.errors import BackendUnavailableError, MshareError
from ..cache import ROOTS_OWN, cache_directory, digest, is_safe

SOURCE = Path(__file__).parents[2] / "preload_source"
NAME = "libmshare-preload.so"
SHIPPED = Path("/usr/lib/mshare")
"""The path where a binary package puts the built library."""
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-Wl,-z,now", "-Wl,-z,relro")
_COMPILERS = ("cc", "gcc", "clang")
_SPECIAL = " :,'\"\n"
"""The loader splits LD_PRELOAD at blanks and colons; the others end a quoted value in some environment file."""


class LibraryBuildError(MshareError):
    """The preload library does not compile on this machine; the message has the compiler's first error."""

    code = errno.ENOEXEC


def find() -> Path | None:
    """Return the library that was built from this source, or None. A package's library comes before root's, and root's
    before this user's own. A file that another user could have changed is passed over."""
    version = digest(SOURCE)
    for place in (SHIPPED, ROOTS_OWN, cache_directory()):
        path = place / "preload" / version / NAME
        with suppress(OSError):  # absent, or in a directory that is not this user's to enter
            if is_safe(path) and os.access(path, os.R_OK):
                return path
    return None


def ensure(cache: Path | None = None) -> Path:
    """Return the library; where there is none yet, build it in `cache` (default: the cache of this user). A build takes
    a second and needs a C compiler.

    Raises `BackendUnavailableError` (no compiler, a directory that LD_PRELOAD cannot name), `LibraryBuildError`.
    """
    found = find() if cache is None else None
    return found or _build(cache or cache_directory())


def _build(cache: Path) -> Path:
    target = cache.absolute() / "preload" / digest(SOURCE) / NAME
    if any(character in str(target) for character in _SPECIAL):
        raise BackendUnavailableError(
            f"the loader cannot preload {str(target)!r}",
            "set XDG_CACHE_HOME to a path without blanks, colons or quotes",
        )
    if target.is_file() and is_safe(target):
        return target
    if not (SOURCE / "calls.c").is_file():
        raise BackendUnavailableError(f"the library's source is not in {SOURCE}", "install mshare again, from a wheel")
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise BackendUnavailableError(
            "building the preload library needs a C compiler", "sudo apt-get install gcc libc6-dev"
        )
    cache.parent.mkdir(parents=True, exist_ok=True)
    for place in (cache, target.parent.parent, target.parent):
        if not place.is_dir():  # whatever the umask: others may read and nobody else may write
            place.mkdir(exist_ok=True)
            place.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as scratch:
        made = Path(scratch) / NAME
        sources = sorted(str(path) for path in SOURCE.glob("*.c"))
        command = [compiler, *FLAGS, "-o", str(made), *sources]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not made.is_file():
            telling = [line for line in done.stderr.splitlines() if "error" in line] or ["no output"]
            raise LibraryBuildError(
                f"{compiler} does not build the preload library ({telling[0]})",
                "install the C library's headers: sudo apt-get install libc6-dev",
            )
        made.chmod(0o644)
        made.replace(target)
    if not is_safe(target):
        raise BackendUnavailableError(
            f"another user may change {target}", "run `chmod go-w` on its directories, or set XDG_CACHE_HOME"
        )
    return target
