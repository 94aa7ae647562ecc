"""Finding writes to read-only tensors before they end the process. May depend on: errors, torch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .._core.errors import ReadOnlyMappingError


class WriteGuard(TorchDispatchMode):
    """Raises `ReadOnlyMappingError` for an operation that would write to one of the given tensors.

    Without it, a write to a read-only tensor ends the process by SIGSEGV. In a `with` block of a guard, torch asks
    before each operation of this thread, which costs some microseconds: use it in tests, and to find the line that
    writes. It sees the operations of torch in eager mode, on views of the tensors also, and not what numpy or C code
    does with their memory.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors`: those of `load_file`, by their names. The guard keeps them."""
        super().__init__()
        self._tensors = dict(tensors)
        self._spans = sorted((each.data_ptr(), each.data_ptr() + each.nbytes, name) for name, each in tensors.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check the tensors to which an operation writes, then let the operation run."""
        kwargs = kwargs or {}
        for value in _written(func._schema, args, kwargs):
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.nbytes:
                    self._check(func, tensor)
        return func(*args, **kwargs)

    def _check(self, func: Any, tensor: torch.Tensor) -> None:
        place = bisect_right(self._spans, tensor.data_ptr(), key=lambda span: span[0]) - 1
        if place >= 0 and tensor.data_ptr() < self._spans[place][1]:
            raise ReadOnlyMappingError(
                f"{func} would write to tensor {self._spans[place][2]!r:.100}, which is read-only",
                "write to a clone of the tensor, or load with readonly=False",
            )


def _written(schema: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """Yield the arguments to which an operation writes."""
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield given.get(argument.name)
    if schema.name == "aten::native_batch_norm" and given["training"]:  # its schema does not say that it writes
        yield from (given["running_mean"], given["running_var"])
