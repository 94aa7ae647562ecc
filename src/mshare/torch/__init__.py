"""Tensors of torch in regions: saved once, used by every process without a copy. Needs the extra `torch`.

>>> import mshare, mshare.torch, torch
>>> mshare.torch.save("docs-weights", {"weight": torch.tensor([[9.5, 3.25]])}).close()
>>> tensors = mshare.torch.load_file("docs-weights")
>>> tensors["weight"]
tensor([[9.5000, 3.2500]])
>>> del tensors
>>> mshare.unlink("docs-weights")

The bytes of a region are those of a safetensors file. A safetensors file that was copied into a region
(`mshare cp model.safetensors region:weights`) can be loaded here.

Loaded tensors lie in read-only memory. **A write to such a tensor ends the process by SIGSEGV**, because torch has no
read-only tensors. A tensor that is sent to another process is copied as a whole: send the region's name or a handle.

May depend on: creation, attachment, region, handle, errors, torch.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("mshare.torch needs torch: pip install 'mshare[torch]'", name=error.name) from error

from .dataset import Dataset
from .device import DeviceError, pinned
from .format import NotTensorsError
from .guard import WriteGuard
from .load import load_file, load_metadata
from .save import save

__all__ = ["Dataset", "DeviceError", "NotTensorsError", "WriteGuard", "load_file", "load_metadata", "pinned", "save"]
