"""Facts about the machine, without which a number means nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("mshare", "numpy", "posix_ipc", "SharedArray")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "?"


def _model() -> str:
    lines = _read("/proc/cpuinfo").split("\n")
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Return the sentences about a machine with these `facts` that a reader must know before its times."""
    if "TCG" in found["cpu"]:
        return [
            "**the processor is emulated** (QEMU without KVM): page tables, faults and what happens on kills are the "
            "kernel's, times are distorted and mean something by their ratio within this page at most"
        ]
    if found["virtual"]:
        return ["a virtual machine: nested paging makes TLB misses dearer than on bare metal"]
    return []


def line(found: Mapping[str, Any]) -> str:
    """Return the first line of a report's sentence about the machine, from `facts`. The sentence goes on."""
    return f"Machine: {found['cpus']} processors ({found['cpu']}), Linux {found['kernel']}, Python {found['python']},"


def _is_virtual() -> bool:
    """Tell whether the processor says that a hypervisor runs this system."""
    return any("hypervisor" in line.split() for line in _read("/proc/cpuinfo").split("\n") if line.startswith("flags"))


def facts(packages: Sequence[str] = _PACKAGES) -> dict[str, str | int | float]:
    """Return processor, memory, kernel, settings, versions of `packages`, and how busy the machine is."""
    memory = _read("/proc/meminfo").split("\n")[0].split()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _model(),
        "cpus": os.cpu_count() or 0,
        "virtual": _is_virtual(),
        "memory_bytes": int(memory[1]) * 1024,
        "kernel": platform.release().partition("-")[0],
        "load_1min": os.getloadavg()[0],
        "shmem_enabled": _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }
