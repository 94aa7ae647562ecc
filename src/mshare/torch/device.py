"""Copies for a GPU, from memory that the driver knows. May depend on: errors, region, torch.

Facts: the driver copies ordinary memory through small buffers of its own. It reads memory that `cudaHostRegister` has
pinned directly, several times as fast. A registration belongs to addresses of one process, and the driver does not
notice when something else is mapped there.
Decision: a registration holds a view of the region, so that the memory stays mapped. All uses in a process share one
registration. The last use ends it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from .._core.errors import MshareError
from .._core.region import Region

_PORTABLE, _READ_ONLY = 1, 8
"""cudaHostRegisterPortable and cudaHostRegisterReadOnly, of driver_types.h."""
_lock = threading.Lock()
_users: dict[int, int] = {}
"""The number of uses of each registered region, by the region's address."""


class DeviceError(MshareError):
    """torch cannot use the device, or the device's driver does not pin a region. `mshare.torch` raises it."""

    code = errno.ENODEV


DeviceError.__module__ = "mshare.torch"


def usable(device: str | int | torch.device) -> torch.device:
    """Return the device if tensors can be loaded to it. Raises `DeviceError`."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"torch knows no device {device!r}: {error!s:.200}", "use 'cpu' or 'cuda'") from error
    if found.type not in ("cpu", "cuda"):
        raise DeviceError(
            f"tensors cannot be loaded to {found}: only to the CPU and to CUDA devices",
            "load to the CPU, and copy with tensor.to(device)",
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "the driver shows no such device"
        raise DeviceError(f"{found} cannot be used: {reason}", "use device='cpu', or look at torch.cuda.device_count()")
    return found


@contextmanager
def pinned(region: Region) -> Iterator[None]:
    """Register a region's memory with the CUDA driver for the time of a `with` block.

    Copies of the region's tensors to a GPU are then as fast as the bus, and `tensor.to(device, non_blocking=True)`
    returns at once. Uses of the same region in a process share one registration, also those of `load_file`. The region
    cannot be closed in the block (`ViewsAliveError`). Wait for your copies (`torch.cuda.synchronize()`) before the
    block ends. Costs a system call that pins all pages: the more, the smaller the leaves. The memory of a region with
    `reserve=False` is then taken as a whole.

    Raises `DeviceError` if there is no CUDA device, or the driver refuses the memory: a read-only attachment needs a
    driver that pins read-only memory. Raises `RegionClosedError`.
    """
    usable("cuda")
    with region.buf:
        _register(region)
        try:
            yield
        finally:
            _unregister(region)


def copies(
    tensors: Mapping[str, torch.Tensor], region: Region, device: torch.device, pin: bool
) -> dict[str, torch.Tensor]:
    """Return copies of the region's tensors on a CUDA device, when all are there."""
    with pinned(region) if pin else nullcontext():
        try:
            return {name: tensor.to(device, non_blocking=pin) for name, tensor in tensors.items()}
        finally:
            torch.cuda.synchronize(device)


def _register(region: Region) -> None:
    with _lock:
        if not _users.get(region.addr):
            flags = _PORTABLE | (_READ_ONLY if region.readonly else 0)
            status = torch.cuda.cudart().cudaHostRegister(region.addr, region.size, flags)
            _check(status, "pin", region, "use pin=False" + (", or a read-write attachment" if region.readonly else ""))
        _users[region.addr] = _users.get(region.addr, 0) + 1


def _unregister(region: Region) -> None:
    with _lock:
        _users[region.addr] -= 1
        if not _users[region.addr]:
            del _users[region.addr]
            status = torch.cuda.cudart().cudaHostUnregister(region.addr)
            _check(status, "unpin", region, "end this process: the driver may go on using these addresses")


def _check(status: Any, verb: str, region: Region, hint: str) -> None:
    if int(status):
        reason = torch.cuda.cudart().cudaGetErrorString(status)
        raise DeviceError(f"the driver does not {verb} region {region.name!r}: {reason}", hint)
