"""Writes the initial RAM file system: busybox, the modules that reach the host's files, our init, and one job.

May depend on: store, errors.
"""

from __future__ import annotations

import lzma
import subprocess
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from .errors import FetchError, HostToolMissing
from .store import Kernel

# The guest needs these modules before it can see the host's files. Modules that are built into the kernel are skipped.
BOOT_MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "virtio_rng")
_DIRECTORY, _FILE, _CHARACTER = 0o040000, 0o100000, 0o020000


class Member(NamedTuple):
    """One member of a cpio archive; `device` is (major, minor) for a character device."""

    name: str
    mode: int
    body: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Member:
    return Member(name, _DIRECTORY | 0o755)


def file(name: str, body: bytes, mode: int = 0o755) -> Member:
    return Member(name, _FILE | mode, body)


def cpio(members: list[Member]) -> bytes:
    """Return a `newc` archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst), owned by root."""
    out = bytearray()
    for number, member in enumerate([*members, Member("TRAILER!!!", 0)], start=1):
        name = member.name.encode() + b"\0"
        fields = (number, member.mode, 0, 0, 1, 0, len(member.body), 0, 0, *member.device, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        out += bytes(-len(out) % 4) + member.body
        out += bytes(-len(out) % 4)
    return bytes(out)


def load_order(modules_dep: str, wanted: tuple[str, ...]) -> list[str]:
    """Return the modules to insert, dependencies first, each once. Their paths are relative to the modules directory.

    Built-in modules are skipped.

    `modules_dep` is the text of `modules.dep`, where dependencies follow a module in reverse order of insertion.
    """
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.split(".ko")[0].replace("-", "_")] = path
    order: list[str] = []
    for name in wanted:
        target = by_name.get(name)
        if target is None:
            continue
        for path in [*reversed(needs[target]), target]:
            if path not in order:
                order.append(path)
    return order


def build(kernel: Kernel, job: dict[str, bytes]) -> bytes:
    """Return the archive for one boot of `kernel`; `job` holds the files of /job.

    Raises FetchError when the kernel's cache entry is damaged, HostToolMissing without `xz` or `zstd` support.
    """
    members = [directory(name) for name in ("bin", "dev", "proc", "sys", "modules", "job", "lower", "upper", "newroot")]
    members.append(Member("dev/console", _CHARACTER | 0o600, device=(5, 1)))
    members.append(Member("dev/null", _CHARACTER | 0o666, device=(1, 3)))
    members.append(Member("dev/kmsg", _CHARACTER | 0o644, device=(1, 11)))
    try:
        members.append(file("bin/busybox", kernel.busybox.read_bytes()))
        order = load_order((kernel.modules / "modules.dep").read_text(), BOOT_MODULES)
        names = []
        for path in order:
            names.append(Path(path).name.split(".ko")[0] + ".ko")
            members.append(file(f"modules/{names[-1]}", _decompressed(kernel.modules / path), 0o644))
    except OSError as error:
        raise FetchError(f"{kernel.root} is damaged ({error}); remove it and fetch the kernel again") from error
    members.append(file("modules/order", "".join(f"{name}\n" for name in names).encode(), 0o644))
    guest = resources.files(__package__) / "guest"
    members.append(file("init", (guest / "init.sh").read_bytes()))
    members.append(file("agent", (guest / "agent.sh").read_bytes()))
    members += [file(f"job/{name}", body) for name, body in sorted(job.items())]
    return cpio(members)


def _decompressed(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        try:
            return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout
        except FileNotFoundError as error:
            raise HostToolMissing("zstd", "zstd") from error
    return path.read_bytes()
