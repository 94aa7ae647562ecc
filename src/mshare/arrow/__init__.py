"""Tables of Arrow in regions: saved once, used by every process without a copy. Needs the extra `arrow` (pyarrow).

>>> import mshare, mshare.arrow, pyarrow
>>> mshare.arrow.save("docs-table", pyarrow.table({"day": [1, 2], "price": [9.5, 3.25]})).close()
>>> table = mshare.arrow.load("docs-table")
>>> table["price"].to_pylist()
[9.5, 3.25]
>>> del table
>>> mshare.unlink("docs-table")

The bytes of a region are an uncompressed Arrow IPC stream. Every Arrow implementation reads the stream from the
region's file (`region.info().path`). `load` also reads the Arrow IPC file format, from a file that was copied into a
region.

A pickle of a table has a copy of all its data: send the region's name or a handle to other processes.

May depend on: creation, attachment, region, handle, errors, pyarrow.
"""

try:
    import pyarrow as _pyarrow  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("mshare.arrow needs pyarrow: pip install 'mshare[arrow]'", name=error.name) from error

from .load import NotATableError, load
from .save import save

__all__ = ["NotATableError", "load", "save"]
