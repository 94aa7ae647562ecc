"""Tables of many libraries as batches of Arrow. May depend on: errors, pyarrow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow

from .._core.errors import InvalidArgumentError


class Batches:
    """The batches of a table, with their schema."""

    def __init__(
        self, schema: pyarrow.Schema, again: Callable[[], Iterator[pyarrow.RecordBatch]], *, repeatable: bool = True
    ) -> None:
        self.schema = schema
        self.repeatable = repeatable
        """Whether each iteration gives the same batches. If not, there is one iteration."""
        self._again = again

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        return self._again()


def batches_of(source: object, rows: int) -> Batches:
    """Return `source` as batches of at most `rows` rows. Raises `InvalidArgumentError` for what is not a table."""
    from pyarrow import parquet  # here, because it takes some time to load

    if isinstance(source, (str, os.PathLike)):
        return _of_parquet(parquet.ParquetFile(source, pre_buffer=False), rows)
    if isinstance(source, parquet.ParquetFile):
        return _of_parquet(source, rows)
    if isinstance(source, pyarrow.RecordBatchReader):
        return _of_reader(source, rows)
    table = _in_memory(source)
    if table is not None:
        return Batches(table.schema, lambda: iter(table.to_batches(max_chunksize=rows)))
    if hasattr(source, "__arrow_c_stream__"):
        return _of_reader(pyarrow.RecordBatchReader.from_stream(source), rows)
    raise InvalidArgumentError(
        f"{type(source).__name__} is not a table",
        "give a pyarrow, pandas or polars table, a RecordBatchReader, or the path of a Parquet file",
    )


def _in_memory(source: object) -> pyarrow.Table | None:
    if isinstance(source, pyarrow.Table):
        return source
    if isinstance(source, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches([source])
    library, kind = type(source).__module__.partition(".")[0], type(source).__name__
    if (library, kind) == ("pandas", "DataFrame"):  # without the import of pandas
        return pyarrow.Table.from_pandas(source)
    if (library, kind) == ("polars", "DataFrame"):
        return pyarrow.table(source)
    return None


def _of_parquet(file: Any, rows: int) -> Batches:
    return Batches(file.schema_arrow, lambda: file.iter_batches(batch_size=rows))


def _of_reader(reader: pyarrow.RecordBatchReader, rows: int) -> Batches:
    def parts() -> Iterator[pyarrow.RecordBatch]:
        for batch in reader:
            yield from (batch.slice(start, rows) for start in range(0, max(1, batch.num_rows), rows))

    return Batches(reader.schema, parts, repeatable=False)
