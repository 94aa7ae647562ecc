"""Builds a kernel that looks for its own mistakes: Debian's source, few options, every check in `debug.config`.

Nobody ships such a kernel. This module builds it once, under the cache directory, in the layout that
`store.from_directory` reads.

May depend on: apt, errors, kbuild (of mshare).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from mshare._tools import kbuild

from . import apt
from .apt import Progress
from .errors import BuildError, HostToolMissing

SOURCE = "linux-source-6.12"
RELEASE_ENDING = "-mshare-debug"  # CONFIG_LOCALVERSION
PACKAGES = "make gcc-12 libc6-dev flex bison bc libelf-dev xz-utils kmod"

# Facts: lockdep makes a spinlock larger than a word, so the kernel allocates the lock of a page table. Inline functions
# for modules call the two allocating functions, which are not exported. Stock kernels have the lock in the page's
# descriptor. Decision: export the two functions.
EXPORTS = """
#if defined(CONFIG_SPLIT_PTE_PTLOCKS) && ALLOC_SPLIT_PTLOCKS
EXPORT_SYMBOL(ptlock_alloc);
EXPORT_SYMBOL(ptlock_free);
#endif
"""


def options(text: str) -> list[str]:
    """Return the lines of a configuration that set an option, sorted. Comments and order mean nothing."""
    return sorted(line for line in text.splitlines() if line.startswith("CONFIG_"))


def missing(wanted: str, made: str) -> list[str]:
    """Return the options of `wanted` that kconfig's result `made` lacks because their dependencies are not met."""
    return sorted(set(options(wanted)) - set(options(made)))


def directory(cache: Path, wanted: str) -> Path:
    """Return the directory of the kernel with these options. Each set has its own: a guest may be using another."""
    digest = hashlib.sha256("\n".join(options(wanted)).encode()).hexdigest()
    return cache / f"debug-{digest[:8]}"


def ensure(cache: Path, progress: Progress) -> Path:
    """Return the debug kernel's root. The kernel is built first if none has the options of `debug.config`.

    Building takes 16 minutes of processor time and 2.1 GB. Raises FetchError, HostToolMissing, BuildError.
    """
    wanted = (resources.files(__package__) / "debug.config").read_text()
    root = directory(cache, wanted)
    complete = root / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "debug-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.is_file():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            _build(root, wanted, progress)
            complete.write_text(wanted)
    return root


def _build(root: Path, wanted: str, progress: Progress) -> None:
    for program in ("make", "gcc", "flex", "bison", "bc", "xz"):
        if shutil.which(program) is None:
            raise HostToolMissing(program, PACKAGES)
    progress(f"downloading and unpacking {SOURCE}")
    machine = apt.Apt()
    machine.update(progress)
    machine.download([SOURCE], root)
    (package,) = root.glob("*.deb")
    apt.output_of(["dpkg-deb", "-x", str(package), str(root)])
    package.unlink()
    (archive,) = root.glob(f"usr/src/{SOURCE}.tar.*")
    source = root / "linux"
    source.mkdir()
    _run(root, ["tar", "-xf", str(archive), "-C", str(source), "--strip-components=1"])
    shutil.rmtree(root / "usr")
    with (source / "mm" / "memory.c").open("a") as file:
        file.write(EXPORTS)
    (root / "wanted").write_text(wanted)
    make = ["make", "-C", str(source), f"-j{os.cpu_count() or 1}"]
    _run(root, [*make, f"KCONFIG_ALLCONFIG={root / 'wanted'}", "allnoconfig"])
    if lost := missing(wanted, (source / ".config").read_text()):
        raise BuildError(f"the kernel's configuration lacks {' '.join(lost)}; add what they depend on to debug.config")
    progress(f"building the kernel, 16 minutes of processor time; log in {root}/log")
    _run(root, [*make, "bzImage", "modules"])
    _run(root, [*make, f"INSTALL_MOD_PATH={root}", "modules_install"])
    (modules,) = root.glob("lib/modules/*")
    (root / "boot").mkdir()
    shutil.copy2(source / "arch" / "x86" / "boot" / "bzImage", root / "boot" / f"vmlinuz-{modules.name}")


def _run(root: Path, command: list[str]) -> None:
    """Run a step of the build, with its output in `root`/log. Raises BuildError with the last lines."""
    environment = kbuild.environment()
    environment["PATH"] = environment.get("PATH", "") + ":/usr/sbin:/sbin"  # for depmod
    with (root / "log").open("ab") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
    if code != 0:
        tail = "\n".join((root / "log").read_text(errors="replace").splitlines()[-20:])
        raise BuildError(f"{shlex.join(command)} failed with status {code}; needs {PACKAGES}:\n{tail}")
