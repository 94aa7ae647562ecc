"""Loading the tensors of a region.

May depend on: attachment, errors, handle, region, device, format, tensors, torch.
"""

from __future__ import annotations

from typing import Any

import torch

from .._core.attachment import attach
from .._core.errors import ReadOnlyMappingError
from .._core.handle import Handle
from .._core.region import Region
from . import device as devices
from .format import Layout, parse
from .tensors import tensor_over


def load_file(
    source: str | Handle | Region, device: str | int | torch.device = "cpu", *, readonly: bool = True, pin: bool = True
) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file that a region holds, by their names, as `safetensors.torch.load_file`
    does.

    On the CPU the tensors are views: their items are the region's bytes, and each keeps the region mapped, also after
    its name was removed. Loading reads the header alone. **A write to such a tensor ends the process by SIGSEGV**,
    because the memory is read-only and torch has no read-only tensors. `WriteGuard` finds such writes.

    - `source`: the region's name, a handle, or a `Region`. Attach yourself if you need the options of `mshare.attach`,
      such as `owner` and `require_sealed`, and pass the `Region`.
    - `device`: "cpu", or a CUDA device, which gets copies. The call returns when all are there.
    - `readonly`: False gives tensors on the CPU through which all processes' bytes can be changed, where the rights of
      the region allow.
    - `pin`: for a CUDA device, True registers the region with the driver for the time of the call (`pinned`), so that
      the device reads the memory directly. False copies through the driver's own buffers.

    Raises `NotTensorsError` if the region holds something else, or hostile or damaged bytes; `DeviceError` for a device
    that cannot be used; the errors of `mshare.attach`. In a process that also has the region attached read-write, a
    write through the tensors changes the region. Other processes that may write to the region can change the items at
    any time.
    """
    target = devices.usable(device)
    region = source if isinstance(source, Region) else attach(source, readonly=readonly)
    if region.readonly and not readonly:
        raise ReadOnlyMappingError("the region is attached read-only", "attach it read-write, or use readonly=True")
    found = _views(region)
    return found if target.type == "cpu" else devices.copies(found, region, target, pin)


def load_metadata(source: str | Handle | Region) -> dict[str, str]:
    """Return the metadata of a safetensors file that a region holds: the strings that `save` was given, or none.

    Raises `NotTensorsError` and the errors of `mshare.attach`.
    """
    return _layout(source if isinstance(source, Region) else attach(source, readonly=True)).metadata


def _views(region: Region) -> dict[str, torch.Tensor]:
    exporter: Any = region.buf.obj  # not the view: torch warns of buffers that say that they are read-only
    return {
        name: tensor_over(exporter, entry, f"tensor {name!r:.100} of {_name_of(region)}")
        for name, entry in _layout(region).entries.items()
    }


def _layout(region: Region) -> Layout:
    with region.buf as view:
        return parse(view, len(view), _name_of(region))


def _name_of(region: Region) -> str:
    return f"region {region.name!r}" if region.name else "the region"
