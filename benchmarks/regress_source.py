"""PostgreSQL's own regression tests, from the source package of the installed server: fetched, unpacked, built.

apt fetches the source and the server's headers with private directories, and compares the files with its signed lists.
Nothing is installed, and the machine's package lists stay as they are. Of the source, the tests need only
`src/test/regress`, with one library in C. pg_regress itself is in Debian's package of the clients.

May depend on: vm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vm import apt
from vm.errors import BuildError, FetchError, HostToolMissing

LIBRARY = "regress.so"
_FLAGS = ("-shared", "-fPIC", "-O2", "-fwrapv", "-fno-strict-aliasing", "-D_GNU_SOURCE")
_TESTS = ("sql", "expected", "data", "parallel_schedule", "resultmap")


class Installed(NamedTuple):
    """The server's package: `major` is PostgreSQL's version in the package's name, `version` the package's version."""

    major: str
    version: str
    source: str
    source_version: str


def installed(programs: Path) -> Installed:
    """Return the package of the server whose programs lie in this directory, as /usr/lib/postgresql/15/bin.

    Raises FetchError if the server is not from a package.
    """
    major = programs.parent.name
    form = "${Version} ${source:Package} ${source:Version}"
    try:
        words = apt.output_of(["dpkg-query", "-W", f"-f={form}", f"postgresql-{major}"]).decode().split()
        return Installed(major, *words)
    except (FetchError, TypeError) as error:
        raise FetchError(f"the server in {programs} is not from Debian: sudo apt-get install postgresql") from error


def cache_directory() -> Path:
    """Return `$XDG_CACHE_HOME/mshare-postgres`, else `~/.cache/mshare-postgres`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "mshare-postgres"


def ensure(server: Installed, progress: Callable[[str], None]) -> Path:
    """Return the directory with the tests of this version and their library. The first call for a version downloads
    25 MB beside apt's lists (40 MB) and takes 200 MB for a minute.

    Raises FetchError, HostToolMissing, BuildError.
    """
    cache = cache_directory()
    target = cache / server.version
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as scratch:
        made = _make(server, Path(scratch), cache / "apt", progress)
        try:
            made.rename(target)
        except OSError:  # another run was faster
            if not target.is_dir():
                raise
    return target


def _make(server: Installed, scratch: Path, lists: Path, progress: Callable[[str], None]) -> Path:
    progress(f"fetching {server.source} {server.source_version} and the headers of the server")
    archive = apt.with_sources(lists)
    archive.update(progress)
    archive.download_source(server.source, server.source_version, scratch)
    headers = f"postgresql-server-dev-{server.major}"
    archive.download([f"{headers}={server.version}"], scratch)
    progress("unpacking, and building the tests' library")
    (description,) = scratch.glob("*.dsc")
    apt.output_of(["dpkg-source", "-x", str(description), str(scratch / "source")])
    (package,) = scratch.glob("*.deb")
    apt.output_of(["dpkg-deb", "-x", str(package), str(scratch / "headers")])
    tests = scratch / "source" / "src" / "test" / "regress"
    made = scratch / "made"
    made.mkdir()
    for name in _TESTS:
        (shutil.copytree if (tests / name).is_dir() else shutil.copy2)(tests / name, made / name)
    _build(tests / "regress.c", scratch / "headers/usr/include/postgresql" / server.major / "server", made / LIBRARY)
    return made


def _build(source: Path, include: Path, target: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise HostToolMissing("cc", "gcc")
    command = [compiler, *_FLAGS, f"-I{include}", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise BuildError(f"{source.name} does not compile: {done.stderr.strip()[:400]}; see whether libc6-dev is there")
