"""Our kernel module: built from the source that comes with this package, loaded, mounted, and taken out again.
May depend on: cache, kbuild, backends.msharefs, linux, errors, units, procfs.

A module that root loads is built by root, in a directory only root can write to (/var/cache/mshare): what another user
has built is never loaded. Building needs the headers of the kernel it is for, make and a compiler.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .._core.backends.msharefs import DEFAULT_ROOT, MODULE, NO_MODULES, is_mounted
from .._core.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    InvalidArgumentError,
    InvalidSizeError,
    ModuleBuildError,
    RegionBusyError,
)
from .._core.linux import module
from .._core.linux.mounts import mount, mounts, unmount
from .._core.procfs import Mount
from .._core.units import format_list
from . import kbuild
from .cache import cache_directory, digest, is_safe

SOURCE = Path(__file__).parents[1] / "kernel_source"
FILE_SYSTEM = "msharefs"
_INFO_FILE = "mshare_info"
_ADMITS_ROOT, _ADMITS_GROUP = 0o755, 0o1775
HUGE = ("never", "advise", "always")
"""Values of the mount option `huge=`."""
_TOOLS = "sudo apt-get install make gcc (Fedora: sudo dnf install make gcc elfutils-libelf-devel)"
_NO_KEY = (errno.EKEYREJECTED, errno.ENOKEY, errno.EBADMSG)


@dataclass(frozen=True, slots=True)
class Status:
    """The facts that `mshare module status` shows. None: not there."""

    kernel: str
    """Release of the running kernel."""
    obstacle: str | None
    """Why this kernel takes no modules."""
    loaded: bool
    mounted: bool
    """An msharefs is on `mount_point`."""
    mount_point: str
    regions: int | None
    """Names on it."""
    size_bytes: int | None
    """The limit of all its regions together (`size=` of the mount)."""
    free_bytes: int | None
    mode: int | None
    """Permission bits of the directory: who may write to it makes regions."""
    uid: int | None
    gid: int | None
    """Its owner and group."""
    headers: str | None
    """The kernel's headers, which building needs."""
    built: str | None
    """The module, built for this kernel and from this source, where this user keeps it."""
    source: str


def status(cache: Path | None = None) -> Status:
    """Return how things are. Needs no right."""
    release = os.uname().release
    mounted = is_mounted()
    space = os.statvfs(DEFAULT_ROOT) if mounted else None
    directory = os.stat(DEFAULT_ROOT) if mounted else None
    built = _built(release, cache or cache_directory())
    headers = headers_of(release)
    return Status(
        kernel=release,
        obstacle=module.obstacle(),
        loaded=module.is_loaded(MODULE),
        mounted=mounted,
        mount_point=str(DEFAULT_ROOT),
        regions=len(_names()) if mounted and os.access(DEFAULT_ROOT, os.R_OK) else None,
        size_bytes=None if space is None else space.f_blocks * space.f_frsize,
        free_bytes=None if space is None else space.f_bavail * space.f_frsize,
        mode=None if directory is None else stat.S_IMODE(directory.st_mode),
        uid=None if directory is None else directory.st_uid,
        gid=None if directory is None else directory.st_gid,
        headers=str(headers) if headers.is_dir() else None,
        built=str(built) if built.is_file() else None,
        source=str(SOURCE),
    )


def headers_of(release: str) -> Path:
    """Return where distributions put the headers of that kernel."""
    return Path("/lib/modules") / release / "build"


def _names() -> list[str]:
    return sorted(name for name in os.listdir(DEFAULT_ROOT) if name != _INFO_FILE)


def _built(release: str, cache: Path) -> Path:
    return cache / release / digest(SOURCE, kbuild.PRODUCTS) / f"{MODULE}.ko"


def build(release: str | None = None, cache: Path | None = None) -> Path:
    """Compile the module for the running kernel, or the one of that release, and return its path. Once built, it is
    found again in `cache` (default: the cache of this user). Takes about a minute.

    Raises `BackendUnavailableError` (no headers, no tools), `ModuleBuildError`.
    """
    release = release or os.uname().release
    if not release or "/" in release or release.startswith("."):
        raise BackendUnavailableError(
            f"invalid kernel release {release!r}", "use what `uname -r` shows, or a name in /lib/modules"
        )
    cache = cache or cache_directory()
    target = _built(release, cache)
    if target.is_file() and is_safe(target):
        return target
    headers = headers_of(release)
    if not (SOURCE / "Kbuild").is_file():
        raise BackendUnavailableError(f"the module's source is not in {SOURCE}", "install mshare again, from a wheel")
    if not headers.is_dir():
        raise BackendUnavailableError(
            f"the headers of kernel {release} are not installed (there is no {headers})",
            f"sudo apt-get install linux-headers-{release} (Fedora: sudo dnf install kernel-devel-{release})",
        )
    missing = kbuild.missing_tools()
    if missing:
        raise BackendUnavailableError(f"building needs {' and '.join(missing)}", _TOOLS)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as scratch:
        tree = Path(scratch) / "kernel"
        kbuild.copy(SOURCE, tree)
        _make(tree, headers, release, target.parent / "build.log")
        made = tree / f"{MODULE}.ko"
        made.chmod(0o644)
        made.replace(target)
    return target


def _make(tree: Path, headers: Path, release: str, log: Path) -> None:
    build = kbuild.make(tree, f"KDIR={headers}")
    log.write_text(build.output)
    if build.status == 0 and (tree / f"{MODULE}.ko").is_file():
        return
    raise ModuleBuildError(
        f"{build.command} failed for kernel {release} ({build.telling or 'no output'})",
        f"read {log}; a missing tool: {_TOOLS}",
    )


def _need_root(action: str) -> None:
    if os.geteuid() != 0:
        raise AccessDeniedError(f"uid {os.geteuid()} may not {action} kernel modules", f"sudo mshare module {action}")


def load(
    size: int | None = None,
    mode: int | None = None,
    gid: int | None = None,
    cache: Path | None = None,
    huge: str | None = None,
) -> Status:
    """Put the module into the running kernel, built before if need be, and mount msharefs on /sys/fs/mshare. A module
    that is loaded and a mount that is there stay; `mode` and `gid` change the directory of such a mount.

    - `size`: bytes that all regions together may take, their page tables included, for a new mount. None: half of the
      memory (the module's default, as tmpfs).
    - `mode`: permission bits of the directory, at most 0o1777. Users who may write to it make regions. Default: 0o755
      (only root makes regions), with `gid` 0o1775 (that group also makes regions).
    - `gid`: group of the directory. Default: root's.
    - `huge`: which regions get pages of 2 MiB: "never" (the module's default), "advise" (regions that ask), "always".
      A mount that is there changes for regions that are made from now on.

    The kernel never swaps the memory of regions and counts that memory in no process. A user who makes regions can fill
    all of `size`, and the OOM killer then ends processes of others.

    Raises `InvalidSizeError`, `InvalidArgumentError`, `BackendUnavailableError`, `AccessDeniedError`,
    `ModuleBuildError`.
    """
    if size is not None and size < 1:
        raise InvalidSizeError(f"no region fits into {size} bytes", "use a size such as 64G, or none")
    if huge is not None and huge not in HUGE:
        raise InvalidArgumentError(f"invalid huge pages {huge!r}", f"choose one of {format_list(HUGE)}")
    if mode is not None and mode & ~0o1777:
        raise InvalidArgumentError(f"mode {mode:#o} is not for this directory", "use 0755, 1775, 1777 or the like")
    loaded = module.is_loaded(MODULE)
    obstacle = module.obstacle()
    if not loaded and obstacle is not None:
        raise BackendUnavailableError(obstacle, NO_MODULES)
    _need_root("load")
    if not loaded:
        path = build(cache=cache)
        if not is_safe(path):
            raise AccessDeniedError(
                f"others may have changed {path}", "remove it, or give --cache a directory of root's"
            )
        _insert(path)
    if is_mounted():
        _admit(mode, gid)
        if huge is not None:
            mount(FILE_SYSTEM, DEFAULT_ROOT, f"huge={huge}", again=True)
    else:
        try:
            mount(FILE_SYSTEM, DEFAULT_ROOT, _options(size, mode, gid, huge))
        except OSError as error:
            if not loaded:
                module.remove(MODULE)
            raise BackendUnavailableError(
                f"msharefs could not be mounted on {DEFAULT_ROOT} ({error.strerror})", "see dmesg"
            ) from error
    return status(cache)


def _options(size: int | None, mode: int | None, gid: int | None, huge: str | None) -> str:
    """Return the mount options of `load`."""
    bits = mode if mode is not None else _ADMITS_ROOT if gid is None else _ADMITS_GROUP
    options = [f"mode={bits:04o}"]
    if gid is not None:
        options.append(f"gid={gid}")
    if size is not None:
        options.append(f"size={size}")
    if huge is not None:
        options.append(f"huge={huge}")
    return ",".join(options)


def _admit(mode: int | None, gid: int | None) -> None:
    """Change the directory of a mount that is there already, as far as asked."""
    if gid is not None:
        os.chown(DEFAULT_ROOT, -1, gid)
    if mode is not None or gid is not None:
        os.chmod(DEFAULT_ROOT, _ADMITS_GROUP if mode is None else mode)


def same_again(place: Mount | None, directory: os.stat_result) -> str:
    """Return the options that mount again what is mounted: sizes from the mount table, rights from the directory, which
    `chmod` and `chown` may have changed."""
    ours = "size=", "nr_inodes=", "huge="
    kept = () if place is None else sorted(each for each in place.options if each.startswith(ours))
    rights = f"mode={stat.S_IMODE(directory.st_mode):04o},uid={directory.st_uid},gid={directory.st_gid}"
    return ",".join((rights, *kept))


def _insert(path: Path) -> None:
    try:
        module.insert(path)
    except FileExistsError:  # somebody else was faster
        return
    except OSError as error:
        why = error.strerror
        if error.errno in _NO_KEY:
            hint = "Secure Boot wants it signed with a key that is enrolled (mokutil --import), or switched off"
        elif error.errno == errno.EPERM:
            hint = "the kernel is locked down, or this is a container: load it on the host"
        elif error.errno in (errno.ENOEXEC, errno.EINVAL):
            raise ModuleBuildError(
                f"the kernel does not take {path} ({why})",
                "see dmesg; if the headers are of another build than the kernel, install its own and reboot",
            ) from error
        else:
            hint = "see dmesg"
        raise BackendUnavailableError(f"the kernel does not take {path} ({why})", hint) from error


def unload() -> Status:
    """Unmount msharefs and take the module out. With nothing loaded, nothing is done.

    Raises `RegionBusyError`, with nothing changed, while there is a region (its memory would be lost) or anybody still
    has one attached or open; `AccessDeniedError`.
    """
    if not module.is_loaded(MODULE):
        return status()
    _need_root("unload")
    places = mounts(FILE_SYSTEM)
    others = [place.mount_point for place in places if place.mount_point != str(DEFAULT_ROOT)]
    if others:
        raise RegionBusyError(f"msharefs is mounted on {', '.join(others)}, too", "umount it there first")
    mounted = is_mounted()
    again = ""
    if mounted:
        again = same_again(places[-1] if places else None, os.stat(DEFAULT_ROOT))
        names = _names()
        if names:
            raise RegionBusyError(
                f"{len(names)} region{'s are' if len(names) > 1 else ' is'} on {DEFAULT_ROOT}: {format_list(names, 5)}",
                "their memory would be lost; remove them first (mshare rm NAME, mshare gc --all)",
            )
        try:
            unmount(DEFAULT_ROOT)
        except OSError as error:
            raise RegionBusyError(
                f"{DEFAULT_ROOT} is in use ({error.strerror})",
                f"end the processes that have regions without a name attached, or work in that directory "
                f"(fuser -vm {DEFAULT_ROOT})",
            ) from error
    try:
        module.remove(MODULE)
    except OSError as error:
        if mounted:
            mount(FILE_SYSTEM, DEFAULT_ROOT, again)  # it was empty, and is again
        raise RegionBusyError(
            f"the module is still in use ({error.strerror})", "msharefs may be mounted in another mount namespace"
        ) from error
    return status()
