"""Loading a table of a region, zero copy. May depend on: attachment, errors, handle, region, pyarrow."""

from __future__ import annotations

import errno

import pyarrow
from pyarrow import ipc

from .._core.attachment import attach
from .._core.errors import MshareError
from .._core.handle import Handle
from .._core.region import Region

_FILE_MAGIC = b"ARROW1"


class NotATableError(MshareError):
    """The bytes of a region are not an Arrow table, or are damaged. `mshare.arrow` raises it."""

    code = errno.EBADMSG


NotATableError.__module__ = "mshare.arrow"


def load(source: str | Handle | Region, *, validate: bool = False) -> pyarrow.Table:
    """Return the table that a region holds, zero copy: the columns' buffers are the region's bytes, and read-only.

    The table, and everything that is made of it without a copy, keeps the region mapped, also after its name was
    removed. Loading reads the descriptions of the batches and no data.

    - `source`: the region's name, a handle, or a `Region`. Attach yourself if you need the options of `mshare.attach`,
      such as `owner` and `require_sealed`, and pass the `Region`.
    - `validate`: True checks all data once: offsets, indexes of dictionaries, UTF-8. Without it only the lengths of
      buffers are checked, as pyarrow does, and a table of hostile bytes can crash the process when it is used.

    Compressed data, which `save` never writes, is decompressed into this process's memory. Raises `NotATableError` if
    the region holds something else, or hostile or damaged bytes; the errors of `mshare.attach`. Other processes that
    may write to the region can change data after the check. If you do not trust them, ask for a sealed region.
    """
    region = source if isinstance(source, Region) else attach(source, readonly=True)
    what = f"region {region.name!r}" if region.name else "the region"
    buffer = pyarrow.py_buffer(region.buf.toreadonly())  # holds the view, which holds the mapping
    try:
        is_file = buffer[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC
        with ipc.open_file(buffer) if is_file else ipc.open_stream(buffer) as reader:
            table = reader.read_all()
        table.validate(full=validate)
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError, UnicodeDecodeError) as error:
        raise NotATableError(f"{what} holds no valid Arrow table: {error!s:.300}", "have it saved again") from error
    return table
