"""Stock kernels under the cache directory: fetched through apt, unpacked with dpkg-deb, never installed.

Kernels are unpacked and not installed. The host's /boot, initramfs hooks and boot loader stay as they are, and 200 MB
of packages need no initramfs build. Two kernels of one ABI cannot clash. A cached kernel needs neither apt nor the
network. The price is that two absolute paths inside the headers must be rewritten (`_relocate`).
If this machine's suites lack a kernel, the kernel comes from other suites of the same mirror, with the compiler and
the tools of those suites (`apt`, `toolchain`).

May depend on: apt, toolchain, versions, errors.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import apt, toolchain, versions
from .apt import Progress
from .errors import KernelNotFound

BUSYBOX_PACKAGE = "busybox-static"


class Kernel(NamedTuple):
    """One unpacked kernel; every path is absolute.

    `stock`: for a kernel that was built by hand, the cached kernel whose busybox is used.
    """

    release: str
    root: Path
    stock: Path | None = None

    @property
    def image(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        return self.root / "lib" / "modules" / self.release

    @property
    def build(self) -> Path:
        """The KDIR for an external module's `make`."""
        if self.stock is not None:
            return self.modules / "build"
        return self.root / "usr" / "src" / f"linux-headers-{self.release}"

    @property
    def busybox(self) -> Path:
        return (self.stock or self.root) / "bin" / "busybox"


def cache_directory() -> Path:
    """Return `$MSHARE_VM_CACHE`, else `$XDG_CACHE_HOME/mshare-vm`, else `~/.cache/mshare-vm`."""
    if own := os.environ.get("MSHARE_VM_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "mshare-vm"


def cached(cache: Path) -> list[Kernel]:
    """Return the complete kernels in the cache, oldest first. Reads the directory only."""
    releases = b"".join(
        b"linux-image-" + path.name.encode() + b"\n" for path in cache.glob("*-amd64") if (path / "complete").exists()
    )
    return [Kernel(item.release, cache / item.release) for item in versions.candidates(releases)]


def find_cached(cache: Path, wanted: str) -> Kernel | None:
    """Return the newest cached kernel of a series (`6.12`) or of that full release, or None. Uses no network."""
    names = b"".join(b"linux-image-" + kernel.release.encode() + b"\n" for kernel in cached(cache))
    try:
        return Kernel(release := versions.newest(names, wanted).release, cache / release)
    except KernelNotFound:
        return None


def ensure(cache: Path, wanted: str, progress: Progress, *, refresh: bool = False) -> Kernel:
    """Return the cached kernel of that series, fetched first if there is none; `refresh` asks apt for a newer one.

    The first call downloads about 125 MB per kernel, or 200 MB if the kernel needs its suite's compiler.
    Raises KernelNotFound, FetchError, HostToolMissing.
    """
    if not refresh and (have := find_cached(cache, wanted)) is not None:
        return have
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        have = None if refresh else find_cached(cache, wanted)
        return have or _fetch(cache, wanted, progress)


def from_directory(root: Path, cache: Path) -> Kernel:
    """Return a kernel that was built by hand. `root` holds boot/vmlinuz-RELEASE and lib/modules/RELEASE.

    The link `build` may point anywhere. busybox comes from the newest cached kernel. Raises KernelNotFound.
    """
    root = root.absolute()
    images = sorted(root.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise KernelNotFound(f"{root}/boot holds {len(images)} vmlinuz-* files; exactly one is needed")
    have = cached(cache)
    if not have:
        raise KernelNotFound("busybox comes with a stock kernel; run python3 -m vm kernels first")
    return Kernel(images[0].name.removeprefix("vmlinuz-"), root, have[-1].root)


def _fetch(cache: Path, wanted: str, progress: Progress) -> Kernel:
    progress("asking apt for kernels")
    machine = apt.Apt()
    machine.update(progress)
    try:
        chosen, found = machine, versions.newest(machine.kernels(), wanted)
    except KernelNotFound:
        progress(f"this machine's suites have no {wanted}; asking for {', '.join(apt.SUITES)}")
        chosen = apt.other_suites(cache / "apt")
        chosen.update(progress)
        found = versions.newest(chosen.kernels(), wanted)
    kernel = Kernel(found.release, cache / found.release)
    if (kernel.root / "complete").exists():
        return kernel
    image, headers = f"linux-image-{found.release}", f"linux-headers-{found.release}"
    packages = [image, *versions.image_parts(chosen.depends(image), found.release)]
    work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
    try:
        progress(f"downloading {found.release}")
        if chosen.private:
            chosen.download(packages, work)
            chosen.download_all(headers, work)
        else:
            packages += [headers, f"linux-headers-{found.common}-common"]
            packages.append(versions.kbuild_package(chosen.depends(headers)))
            chosen.download(packages, work)
        machine.download([BUSYBOX_PACKAGE], work)
        unpacked = work / "root"
        archives = sorted(work.glob("*.deb"))
        progress(f"unpacking {len(archives)} packages")
        for package in archives:
            apt.output_of(["dpkg-deb", "-x", str(package), str(unpacked)])
            package.unlink()
        _settle(unpacked, kernel)
        apt.output_of(["depmod", "-b", str(unpacked), found.release])
        _relocate(unpacked, kernel)
        if chosen.private:
            toolchain.install(unpacked, kernel.root)
            variables = unpacked / "usr" / "src" / headers / ".kernelvariables"
            variables.write_text(toolchain.kernel_variables(variables.read_text(), kernel.root))
        (unpacked / "complete").write_text("\n".join(packages) + "\n")
        shutil.rmtree(kernel.root, ignore_errors=True)
        unpacked.rename(kernel.root)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return kernel


def _settle(unpacked: Path, kernel: Kernel) -> None:
    """Make the older places lead to /usr, below which newer packages keep everything."""
    for name in ("lib", "bin"):
        if not (unpacked / name).exists():
            (unpacked / name).symlink_to(f"usr/{name}")
    if not (unpacked / "bin" / "busybox").exists():
        (unpacked / "bin" / "busybox").symlink_to("../usr/bin/busybox")
    image = unpacked / "boot" / kernel.image.name
    if not image.exists():
        image.parent.mkdir(exist_ok=True)
        image.symlink_to(f"../usr/lib/modules/{kernel.release}/vmlinuz")


def _relocate(unpacked: Path, kernel: Kernel) -> None:
    """Point the headers at their final place instead of /usr/src and /usr/lib."""
    headers = unpacked / "usr" / "src" / f"linux-headers-{kernel.release}"
    for name in ("Makefile", ".kernelvariables"):
        path = headers / name
        if path.exists():
            text = re.sub(r"(?<![\w/])/usr/(src|lib)/linux-", rf"{kernel.root}/usr/\1/linux-", path.read_text())
            path.write_text(text)
    for name, target in (("build", kernel.build), ("source", kernel.build)):
        link = unpacked / "lib" / "modules" / kernel.release / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
