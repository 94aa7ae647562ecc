"""Runs the kernel's own checkers on `kernel/`: checkpatch for style, sparse for types, address spaces and locks.

checkpatch is taken once from Debian's `linux-source` package into the cache, because no smaller package has it.

May depend on: apt, store, suite, errors.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import apt, suite
from .apt import Progress
from .errors import BuildError, HostToolMissing
from .store import Kernel

SOURCE = "linux-source-6.12"
PACKAGES = "sparse perl xz-utils"
_SCRIPTS = ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch")
# A message of sparse, or of the compiler, about one of our files. The kernel's headers have absolute paths.
_SPARSE = re.compile(r"^[^/\s][^\s:]*\.[ch]:\d+:\d+: (?:warning|error): ")


def checkpatch_script(cache: Path, progress: Progress) -> Path:
    """Return checkpatch.pl in the cache, fetched first if it is not there: 150 MB through apt, 300 KB are kept.

    Raises FetchError, HostToolMissing.
    """
    directory = cache / "checkpatch"
    script = directory / _SCRIPTS[0]
    if script.exists():
        return script
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if script.exists():
            return script
        work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
        try:
            progress(f"downloading {SOURCE} for checkpatch")
            machine = apt.Apt()
            machine.update(progress)
            machine.download([SOURCE], work)
            (package,) = work.glob("*.deb")
            apt.output_of(["dpkg-deb", "-x", str(package), str(work)])
            (archive,) = work.glob(f"usr/src/{SOURCE}.tar.xz")
            unpacked = work / "checkpatch"
            unpacked.mkdir()
            members = [f"{SOURCE}/scripts/{name}" for name in _SCRIPTS]
            apt.output_of(
                ["tar", "-xJf", str(archive), "-C", str(unpacked), "--strip-components=2", "--occurrence=1", *members]
            )
            unpacked.rename(directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return script


def sources(repository: Path) -> list[Path]:
    """Return the C files of the module."""
    return sorted(path for path in (repository / "kernel").rglob("*.[ch]") if not path.name.endswith(".mod.c"))


def checkpatch(script: Path, repository: Path) -> list[str]:
    """Return the messages of checkpatch --strict, one a line. Raises HostToolMissing."""
    if shutil.which("perl") is None:
        raise HostToolMissing("perl", PACKAGES)
    said: list[str] = []
    for path in sources(repository):
        command = ["perl", str(script), "--no-tree", "--strict", "--terse", "--no-summary", "--show-types"]
        if "uapi" in path.parts:
            command.append("--ignore=BIT_MACRO")  # programs have no BIT()
        command += ["--file", str(path.relative_to(repository))]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, errors="replace", check=False)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        if done.returncode and not lines:
            lines = [f"{path}: checkpatch ended with status {done.returncode}"]
        said += lines
    return said


def sparse(repository: Path, kernel: Kernel) -> list[str]:
    """Return the messages of sparse and the compiler about our files. Raises BuildError, HostToolMissing."""
    if shutil.which("sparse") is None:
        raise HostToolMissing("sparse", PACKAGES)
    output = suite.build_with(repository, kernel, "sparse", ["C=2", "CHECK=sparse"])
    if re.search(r"^  CHECK   \S", output, re.MULTILINE) is None:
        # Debian's headers of 7.2 and 7.3 lack scripts/checker-valid.sh. Kbuild then skips sparse and goes on.
        raise BuildError(f"sparse does not run with the headers of {kernel.release}; choose --kernel 6.12")
    return ours(output)


def ours(output: str) -> list[str]:
    """Return the lines of a build's output in which a checker names our files, each once."""
    return list(dict.fromkeys(f"kernel/{line}" for line in output.splitlines() if _SPARSE.match(line)))
