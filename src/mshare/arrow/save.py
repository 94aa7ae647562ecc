"""Saving a table into a new region. May depend on: creation, errors, region, tables, pyarrow."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable
from typing import IO

import pyarrow
from pyarrow import ipc

from .._core.creation import creator
from .._core.errors import InvalidArgumentError, NoSpaceError
from .._core.region import Region
from .tables import Batches, batches_of

_PART = 1 << 20


def save(
    name: str | None,
    source: object,
    *,
    mode: int = 0o600,
    backend: str | None = None,
    replace: bool = False,
    batch_rows: int = 1 << 17,
) -> Region:
    """Create a region that holds a table as an uncompressed Arrow IPC stream, and return the region.

    The table is written batch by batch into the region, which has no name before all is complete. The size has to be
    known before. It is that of a first pass, which writes nothing: over the batches of a table, or by decoding a
    Parquet file twice. A stream that can be read only once is spooled to an unnamed file in `$TMPDIR`, which should lie
    on a disk. In each case the memory that is needed beside the region is that of a few batches.

    - `name`: the region's name, or None for a region without a name, for its `handle` and `map_only`.
    - `source`: a `pyarrow.Table`, `RecordBatch` or `RecordBatchReader`; the path of a Parquet file, or a
      `pyarrow.parquet.ParquetFile`; a `pandas.DataFrame`, which is converted as a whole; a `polars.DataFrame`; or any
      object with `__arrow_c_stream__`, such as a relation of DuckDB.
    - `mode`, `backend`, `replace`: as for `mshare.create`. A region without a name has no mode and replaces nothing.
    - `batch_rows`: at most so many rows in a batch, at least 1.

    Raises `InvalidArgumentError` for another `source`, `NoSpaceError`, the errors of `mshare.create`, and those of
    pyarrow for a source that cannot be read. Nothing is left behind then.
    """
    make = creator(name, mode=mode, backend=backend, replace=replace)
    if batch_rows < 1:
        raise InvalidArgumentError(f"a batch cannot have {batch_rows} rows", "use at least 1")
    batches = batches_of(source, batch_rows)
    if not batches.repeatable:
        with tempfile.TemporaryFile(prefix="mshare-") as file:
            return make(_spooled(file, batches), lambda view: _copy(file, view))
    counter = pyarrow.MockOutputStream()
    _write(counter, batches.schema, batches)
    return make(counter.size(), lambda view: _write_into(view, batches))


def _write(sink: object, schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> None:
    with ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_into(view: memoryview, batches: Batches) -> None:
    with pyarrow.FixedSizeBufferWriter(pyarrow.py_buffer(view)) as sink:
        _write(sink, batches.schema, batches)
        if sink.tell() != len(view):
            raise InvalidArgumentError("the source has changed while it was saved", "save it again")


def _spooled(file: IO[bytes], batches: Batches) -> int:
    """Write the stream to `file` and return its bytes."""
    try:
        _write(file, batches.schema, batches)
        return file.tell()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise NoSpaceError(
            f"the stream does not fit into {tempfile.gettempdir()}, where it is spooled", "set TMPDIR to a larger disk"
        ) from error


def _copy(file: IO[bytes], view: memoryview) -> None:
    file.seek(0)
    for start in range(0, len(view), _PART):
        with view[start : start + _PART] as part:
            part[:] = file.read(len(part))
