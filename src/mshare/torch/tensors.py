"""The dtypes and shapes of torch's tensors as the format has them. May depend on: format, torch."""

from __future__ import annotations

from typing import Any

import torch

from .format import Entry, NotTensorsError

_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2"},
    **{"F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "F4": "float4_e2m1fn_x2"},
}
_DTYPES = {name: getattr(torch, attribute) for name, attribute in _NAMES.items() if hasattr(torch, attribute)}
"""The dtypes that this torch has, by their names in the format."""
_WORDS = {dtype: name for name, dtype in _DTYPES.items()}
_PAIRS = "F4"
"""Two items of this dtype are one element of torch's tensor. The last dimension counts items in the format and pairs in
torch."""


def described(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]] | None:
    """Return the dtype and the shape of a tensor as the format has them; None for a dtype that the format lacks."""
    word, shape = _WORDS.get(tensor.dtype), tuple(tensor.shape)
    if word == _PAIRS:
        return (word, (*shape[:-1], shape[-1] * 2)) if shape else None
    return None if word is None else (word, shape)


def tensor_over(exporter: Any, entry: Entry, what: str) -> torch.Tensor:
    """Return the tensor of `entry` over the memory of `exporter`, which it keeps alive. Raises `NotTensorsError`."""
    dtype, shape = _DTYPES.get(entry.dtype), entry.shape
    if dtype is None:
        raise NotTensorsError(
            f"{what} has dtype {entry.dtype}, and this torch has no such dtype", "install a newer torch"
        )
    if entry.dtype == _PAIRS:
        if not shape or shape[-1] % 2:
            raise NotTensorsError(f"{what} has an odd number of {entry.dtype} items in a row", "have it saved again")
        shape = (*shape[:-1], shape[-1] // 2)
    try:
        if entry.start == entry.end:
            return torch.empty(shape, dtype=dtype)
        count = (entry.end - entry.start) // dtype.itemsize
        return torch.frombuffer(exporter, dtype=dtype, count=count, offset=entry.start).reshape(shape)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:  # no bytes, but impossible dimensions
        raise NotTensorsError(f"{what} has an impossible shape: {error!s:.200}", "have it saved again") from error
