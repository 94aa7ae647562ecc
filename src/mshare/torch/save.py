"""Saving tensors into a new region. May depend on: creation, errors, region, format, tensors, torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch.nn.parameter import Parameter

from .._core.creation import creator
from .._core.errors import InvalidArgumentError
from .._core.region import Region
from .format import LARGEST_HEADER, LENGTH, Entry, header, parse
from .tensors import described

_PART = 8 << 20


def save(
    name: str | None,
    source: Mapping[str, torch.Tensor] | str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    mode: int = 0o600,
    backend: str | None = None,
    replace: bool = False,
) -> Region:
    """Create a region that holds tensors as a safetensors file, and return the region.

    The bytes of the region are those that `safetensors.torch.save_file` writes. Each tensor is copied once, straight to
    its place. Saving needs no memory beside the region, also from a file, or from `torch.load(path, mmap=True)`. The
    name appears when all is complete.

    - `name`: the region's name, or None for a region without a name, for its `handle` and `map_only`.
    - `source`: tensors by their names, such as `model.state_dict()`, on any device; or the path of a safetensors file,
      whose bytes are taken as they are.
    - `metadata`: strings for `load_metadata` and for other readers of the format. A file has its own.
    - `mode`, `backend`, `replace`: as for `mshare.create`. A region without a name has no mode and replaces nothing.

    Raises `InvalidArgumentError`, before anything is created, for what safetensors refuses also: sparse tensors,
    tensors that are not contiguous or share memory, and dtypes that the format lacks. Raises `NotTensorsError` for
    another file, `OSError` for one that cannot be read, and the errors of `mshare.create`.
    """
    make = creator(name, mode=mode, backend=backend, replace=replace)
    if not isinstance(source, (str, os.PathLike)):
        fill = _Tensors(source, metadata)
        return make(fill.size, fill)
    if metadata is not None:
        raise InvalidArgumentError("a safetensors file has its own metadata", "omit metadata")
    with open(source, "rb") as file:  # noqa: PTH123
        fd = file.fileno()
        size = _checked_size(fd, f"file {os.fspath(source)!r}")
        return make(size, lambda view: _read(fd, view))


def _checked_size(fd: int, what: str) -> int:
    """Return the bytes of a safetensors file. Raises `NotTensorsError`."""
    size, begin = os.fstat(fd).st_size, os.pread(fd, LENGTH, 0)
    begin += os.pread(fd, min(int.from_bytes(begin, "little"), LARGEST_HEADER), LENGTH)
    parse(memoryview(begin), size, what)
    return size


def _read(fd: int, view: memoryview) -> None:
    for start in range(0, len(view), _PART):
        with view[start : start + _PART] as part:
            if os.preadv(fd, [part], start) != len(part):
                raise InvalidArgumentError("the file has changed while it was saved", "save it again")


class _Tensors:
    """Tensors by name, as a `fill` of `create`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None) -> None:
        if not isinstance(tensors, Mapping):
            raise InvalidArgumentError(
                f"{type(tensors).__name__} is not a dict of tensors", "give a dict, such as model.state_dict()"
            )
        self.header, self.layout = header({name: _described(name, each) for name, each in tensors.items()}, metadata)
        _refuse_shared(tensors)
        self.tensors = dict(tensors)
        self.size = max((entry.end for entry in self.layout.entries.values()), default=len(self.header))

    def __call__(self, view: memoryview) -> None:
        view[: len(self.header)] = self.header
        for name, entry in self.layout.entries.items():
            if entry.start < entry.end:
                _copy(self.tensors[name], view, entry)


def _described(name: object, tensor: Any) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape in the words of the format. Raises `InvalidArgumentError` for what is not saved."""
    what, hint = f"tensor {name!r:.100}", None
    if not isinstance(name, str):
        what, hint = f"the name {name!r:.100} is not a string", "use str(name)"
    elif type(tensor) not in (torch.Tensor, Parameter):
        what += f" is a {type(tensor).__name__}, and not a plain torch.Tensor"
        hint = "save tensors, such as tensor.as_subclass(torch.Tensor), or the parts of a quantized tensor"
    elif tensor.layout != torch.strided:
        what, hint = f"{what} is sparse", "save tensor.to_dense()"
    elif tensor.is_meta:
        what, hint = f"{what} is on the device meta and has no items", "load it first"
    elif not tensor.is_contiguous():
        what, hint = f"{what} is not contiguous", "save tensor.contiguous()"
    elif (found := described(tensor)) is None:
        what, hint = f"{what} has dtype {tensor.dtype}, which the format lacks", "save tensor.view(torch.uint8)"
    else:
        return found
    raise InvalidArgumentError(what, hint)


def _refuse_shared(tensors: Mapping[str, torch.Tensor]) -> None:
    spans = sorted(
        (str(each.device), each.data_ptr(), each.data_ptr() + each.nbytes, name)
        for name, each in tensors.items()
        if each.nbytes
    )
    for (device, _, end, one), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            raise InvalidArgumentError(
                f"tensors {one!r:.100} and {other!r:.100} share memory, and would be two copies after loading",
                "save one of them and tie them again after loading, or save a clone",
            )


def _copy(tensor: torch.Tensor, view: memoryview, entry: Entry) -> None:
    """Copy the items to their place. The tensor over the view ends here: `create` lets nobody keep the memory."""
    target = torch.frombuffer(view, dtype=torch.uint8, count=entry.end - entry.start, offset=entry.start)
    try:
        target.copy_(tensor.detach().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8))
    finally:
        del target
