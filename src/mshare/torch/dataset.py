"""The rows of a region's tensors for `torch.utils.data.DataLoader`.

May depend on: attachment, errors, handle, load, torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import data

from .._core.attachment import attach
from .._core.errors import InvalidArgumentError, RegionNotFoundError
from .._core.handle import Handle
from .load import load_file


class Dataset(data.Dataset):
    """The rows of tensors in a region, for `torch.utils.data.DataLoader` with workers of every start method.

    Item `i` is a tuple of row `i` of each tensor. The rows are copies, so that a transform may write to them, and a
    worker never sends a whole tensor. The region is attached at once, and by each worker at its first use. A pickle has
    some 200 bytes: the names, and no data. Subclass it to transform items.

    A dataset means the region that its name means when the dataset is made. If the name means another region when a
    worker attaches it, because the region was replaced, the worker raises `RegionNotFoundError`. A handle, which has to
    stay open, keeps the region that it means.
    """

    def __init__(self, source: str | Handle, *names: str) -> None:
        """`source`: the region's name or a handle. `names`: at least one tensor. Raises `InvalidArgumentError` for
        tensors that are missing or of several lengths, `RegionNotFoundError`, and the errors of `load_file`."""
        if not names:
            raise InvalidArgumentError("a dataset needs the names of tensors", "such as Dataset(source, 'x', 'y')")
        self.source, self.names = source, names
        self._file: tuple[int, int] | None = None
        self._tensors: tuple[torch.Tensor, ...] | None = None
        self._rows()

    def __len__(self) -> int:
        """Return the number of rows. Raises `RegionNotFoundError` and the errors of `load_file` at a worker's first
        use, as does the look at an item."""
        return len(self._rows()[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        """Return copies of the rows. Raises `IndexError`."""
        return tuple(rows[index].clone() for rows in self._rows())

    def _rows(self) -> tuple[torch.Tensor, ...]:
        if self._tensors is None:
            region = attach(self.source, readonly=True)
            file = region._status.st_dev, region._status.st_ino
            if self._file not in (None, file):
                raise RegionNotFoundError(
                    f"region {region.name!r} was replaced after this dataset was made",
                    "make a new dataset, or give a handle, which keeps its region",
                )
            self._tensors, self._file = _chosen(load_file(region), self.names), file
        return self._tensors

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tensors": None}


def _chosen(tensors: dict[str, torch.Tensor], names: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """Return the tensors of these names, which have rows, and the same number of them."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InvalidArgumentError(
            f"the region has no tensor {missing[0]!r:.100}", f"use one of these: {', '.join(sorted(tensors)):.500}"
        )
    chosen = tuple(tensors[name] for name in names)
    lengths = [tuple(each.shape[:1]) for each in chosen]
    if () in lengths or len(set(lengths)) > 1:
        raise InvalidArgumentError(
            f"the tensors {', '.join(names):.300} have {', '.join(str(*each) or 'no' for each in lengths):.300} rows",
            "choose tensors with the same number of rows",
        )
    return chosen
