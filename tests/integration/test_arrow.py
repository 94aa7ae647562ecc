"""Tables in regions: what was saved is what is loaded, without a copy, by pyarrow, DuckDB and polars, and hostile bytes
are found where validation is asked for."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mshare
import mshare.arrow
from mshare._tools.demo import flights
from mshare.arrow import NotATableError, load, save
from tests.helpers.worlds import removed

pyarrow: Any = pytest.importorskip("pyarrow")
duckdb: Any = pytest.importorskip("duckdb")
polars: Any = pytest.importorskip("polars")
pandas: Any = pytest.importorskip("pandas")
from pyarrow import ipc, parquet  # noqa: E402

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
TEXT = st.text(max_size=20)
PLAIN: dict[Any, Any] = {
    pyarrow.int8(): st.integers(-128, 127),
    pyarrow.uint64(): st.integers(0, 2**64 - 1),
    pyarrow.bool_(): st.booleans(),
    pyarrow.float64(): st.floats(allow_nan=False),
    pyarrow.string(): TEXT,
    pyarrow.large_string(): TEXT,
    pyarrow.string_view(): TEXT,
    pyarrow.binary(): st.binary(max_size=5),
    pyarrow.binary(3): st.binary(min_size=3, max_size=3),
    pyarrow.timestamp("us", "UTC"): st.datetimes().map(lambda when: int(when.timestamp() * 1e6)),
    pyarrow.date32(): st.dates(),
    pyarrow.decimal128(10, 2): st.decimals(-99999, 99999, places=2),
    pyarrow.null(): st.none(),
}


def nested(inner: Any) -> Any:
    """Add a list or a struct around a type and its values."""
    return st.one_of(
        inner.map(lambda pair: (pyarrow.list_(pair[0]), st.lists(pair[1], max_size=3))),
        inner.map(lambda pair: (pyarrow.struct([("x", pair[0])]), st.fixed_dictionaries({"x": pair[1]}))),
    )


SIMPLE = st.sampled_from([(kind, st.one_of(st.none(), values)) for kind, values in PLAIN.items()])
TYPES = st.one_of(SIMPLE, nested(SIMPLE), nested(nested(SIMPLE)))


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """A table of several chunks, some of them slices, with texts coded by a dictionary of each chunk."""
    fields = draw(st.dictionaries(st.text(max_size=5), TYPES, max_size=4))
    coded = draw(st.booleans())
    schema = pyarrow.schema(
        [(name, kind) for name, (kind, _) in fields.items()]
        + ([("coded", pyarrow.dictionary(pyarrow.int8(), pyarrow.string()))] if coded else []),
        metadata=draw(st.none() | st.just({"made": "by a test"})),
    )
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        rows = draw(st.integers(0, 7))
        columns = [
            pyarrow.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
            for kind, values in fields.values()
        ]
        if coded:
            texts = draw(st.lists(st.none() | st.sampled_from("abcdef"), min_size=rows, max_size=rows))
            columns.append(pyarrow.array(texts, pyarrow.string()).dictionary_encode().cast(schema.field("coded").type))
        start = draw(st.integers(0, rows))
        chunks.append(pyarrow.RecordBatch.from_arrays(columns, schema=schema).slice(start))
    return pyarrow.Table.from_batches(chunks, schema)


def buffers(array: Any) -> Iterator[Any]:
    """Yield the buffers of an array, of its children and of its dictionary."""
    yield from (buffer for buffer in array.buffers() if buffer is not None and buffer.size)
    if isinstance(array, pyarrow.DictionaryArray):
        yield from buffers(array.dictionary)


def assert_in_region(table: Any, region: mshare.Region) -> None:
    """Every buffer of every column is memory of the region, and read-only."""
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in buffers(chunk):
                assert not buffer.is_mutable
                assert region.addr <= buffer.address <= region.addr + region.size - buffer.size


def decoded(table: Any) -> Any:
    """Return the table with plain texts. Columns are not equal if one has another dictionary for the same texts."""
    if "coded" not in table.column_names or not pyarrow.types.is_dictionary(table.schema.field("coded").type):
        return table
    place = table.schema.get_field_index("coded")
    return table.set_column(place, "coded", table.column(place).cast(pyarrow.string()))


@SHARED
@given(tables(), st.integers(1, 5), st.sampled_from(["table", "reader", "parquet"]))
def test_a_table_is_a_stream_of_arrow(world: Path, tmp_path: Path, table: Any, batch_rows: int, form: str) -> None:
    source = table.to_reader() if form == "reader" else table
    if form == "parquet":
        try:
            parquet.write_table(table, tmp_path / "t.parquet")
        except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):  # Parquet has no such type
            return
        source = tmp_path / "t.parquet"
        table = parquet.ParquetFile(source).read()
    with removed("t"), save("t", source, batch_rows=batch_rows, backend="shm") as region:
        before = pyarrow.total_allocated_bytes()
        got = load("t", validate=True)
        assert pyarrow.total_allocated_bytes() == before
        assert got.schema.equals(table.schema, check_metadata=True)
        assert decoded(got).equals(decoded(table))
        assert all(batch.num_rows <= batch_rows for batch in got.to_batches())
        assert_in_region(got, region)
        with pyarrow.memory_map(region.info().path) as file:  # without mshare
            assert ipc.open_stream(file).read_all().equals(got)
        del got


def test_bits_of_nan_and_order_of_columns_are_kept(world: Path) -> None:
    payloads = memoryview(bytes(range(248, 256)) * 64)
    array = pyarrow.Array.from_buffers(pyarrow.float64(), 64, [None, pyarrow.py_buffer(payloads)])
    save("t", pyarrow.table({"z": array, "a": array})).close()
    got = load("t")
    assert got.column_names == ["z", "a"]
    assert got["a"].chunk(0).buffers()[1].to_pybytes() == payloads


FRAME = {
    "number": [1, None, 3],
    "text": ["x", None, "long enough to lie outside of a view"],
    "flag": [True, False, None],
}


def test_frames_and_relations_of_other_libraries_are_tables(world: Path) -> None:
    whole = pandas.DataFrame({"number": [1.5, 2.5], "text": ["x", "y"]}, index=pandas.Index([7, 9], name="id"))
    save("pandas", whole).close()
    pandas.testing.assert_frame_equal(load("pandas").to_pandas(), whole)
    frame = polars.DataFrame(FRAME)
    with save("polars", frame) as region:
        got = load(region)
        assert polars.from_arrow(got).equals(frame)
        assert_in_region(got, region)
        del got
    save("lazy", duckdb.sql("select range as n, 'row ' || range as text from range(300000)")).close()
    assert load("lazy").num_rows == 300_000
    assert load("lazy")["text"][299_999].as_py() == "row 299999"
    save("batch", pyarrow.RecordBatch.from_pydict(FRAME)).close()
    assert load("batch").to_pydict() == FRAME
    file = ipc.new_file(sink := pyarrow.BufferOutputStream(), load("batch").schema)
    file.write_table(load("batch"))
    file.close()
    content = sink.getvalue().to_pybytes()
    mshare.create("file", len(content), fill=lambda view: view.__setitem__(slice(None), content)).close()
    assert load("file").to_pydict() == FRAME


@pytest.mark.parametrize("wrong", [3, None, {"a": [1]}, b"PAR1"])
def test_what_is_not_a_table_is_refused(world: Path, wrong: object) -> None:
    with pytest.raises(mshare.InvalidArgumentError, match="not a table"):
        save("t", wrong)
    with pytest.raises(mshare.InvalidArgumentError, match="rows"):
        save("t", pyarrow.table({}), batch_rows=0)
    with pytest.raises(mshare.InvalidArgumentError, match="without a name"):
        save(None, pyarrow.table({}), replace=True)
    assert mshare.regions() == []


def test_a_source_that_fails_or_changes_leaves_nothing(world: Path, tmp_path: Path) -> None:
    table = pyarrow.table({"a": range(100)})

    def failing() -> Iterator[Any]:
        yield from table.to_batches()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save("t", pyarrow.RecordBatchReader.from_batches(table.schema, failing()))
    with pytest.raises(FileNotFoundError):
        save("t", tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(pyarrow.ArrowInvalid):
        save("t", tmp_path / "text.parquet")
    assert mshare.regions() == []


def test_a_table_keeps_its_region_and_a_newer_one_replaces_it(world: Path) -> None:
    region = save("t", pyarrow.table({"a": [1, 2, 3]}))
    table = load(region)
    tail = table["a"].slice(2)
    save("t", pyarrow.table({"a": [4]}), replace=True).close()
    assert region.superseded
    del table
    with pytest.raises(mshare.ViewsAliveError):
        region.close()
    assert (tail.to_pylist(), load("t")["a"].to_pylist()) == ([3], [4])
    del tail
    region.close()
    with pytest.raises(mshare.RegionClosedError):
        load(region)
    with save(None, pyarrow.table({"a": [5]})) as nameless, nameless.map_only() as handle:
        assert load(handle)["a"].to_pylist() == [5]


@pytest.fixture(scope="module")
def new_york() -> Any:
    """All flights that left New York City in 2013."""
    return flights.load()


def delays(library: str, name: str) -> dict[str, flights.Delay]:
    """Attach the flights and compute the delays of the carriers with DuckDB or polars."""
    table = load(name)
    if library == "duckdb":
        query = "select carrier, count(arr_delay), avg(arr_delay) from flights group by carrier"
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.register("flights", table)
            rows = connection.sql(query).fetchall()
    else:
        grouped = polars.from_arrow(table).lazy().group_by("carrier")
        rows = grouped.agg(polars.col("arr_delay").count().alias("n"), polars.mean("arr_delay")).collect().rows()
    return {carrier: flights.Delay(count, mean) for carrier, count, mean in rows}


@pytest.mark.parametrize("library", ["duckdb", "polars"])
def test_duckdb_and_polars_compute_on_a_real_table_in_other_processes(world: Path, new_york: Any, library: str) -> None:
    save("flights", new_york, mode=0o400).close()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.apply(delays, (library, "flights"))
    expected = flights.plain_delays(new_york)
    assert got.keys() == expected.keys()
    for carrier, delay in expected.items():
        assert got[carrier].flights == delay.flights
        assert got[carrier].mean_minutes == pytest.approx(delay.mean_minutes, rel=1e-12)


def test_polars_uses_the_memory_of_the_region(world: Path, new_york: Any) -> None:
    with save("flights", polars.from_arrow(new_york).rechunk(), batch_rows=1 << 20) as region:
        frame = polars.from_arrow(load(region))
        assert frame.equals(polars.from_arrow(new_york))
        for name in ("arr_delay", "flight", "distance", "carrier", "time_hour"):
            array = frame[name].to_arrow(compat_level=polars.CompatLevel.newest())
            places = [(buffer.address, buffer.address + buffer.size) for buffer in buffers(array)]
            assert places
            assert all(region.addr <= first <= last <= region.addr + region.size for first, last in places)
            del array
        del frame


LIMITED = """
import resource, sys
def limit(more_mib):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    used = int(fields["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + (more_mib << 20),) * 2)
"""
"""RLIMIT_DATA bounds the private writable memory of a process. Mappings of shared files are not a part of that memory.
A process that has less left than the table has bytes cannot make a copy of the table."""
SPARING = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


def run_limited(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", LIMITED + program, *arguments]
    done = subprocess.run(command, env=os.environ | SPARING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


ROWS = 12 << 20
"""Rows of 8 bytes in the large tables: 96 MiB."""

QUERIES = {
    "duckdb": """
import duckdb, mshare.arrow, pyarrow
table = mshare.arrow.load("large")
connection = duckdb.connect(config={"threads": 1})
connection.register("small", table.slice(0, 1000))
connection.sql("select count(n), sum(n) from small").fetchall()
limit(48)
connection.register("large", table)
print(*connection.sql("select count(n), sum(n) from large where n % 3 = 1").fetchall()[0])
""",
    "polars": """
import polars, mshare.arrow
table = mshare.arrow.load("large")
polars.from_arrow(table.slice(0, 1000)).lazy().filter(polars.col("n") % 3 == 1).select(polars.sum("n")).collect()
limit(48)
frame = polars.from_arrow(table)
print(frame["n"].count(), frame["n"].sum())
""",
}


@pytest.mark.parametrize("library", QUERIES)
def test_a_query_makes_no_copy_of_the_table(world: Path, library: str) -> None:
    numbers = pyarrow.array(range(1000)).take(pyarrow.array([number % 1000 for number in range(1 << 20)]))
    save("large", pyarrow.table({"n": pyarrow.chunked_array([numbers] * (ROWS >> 20))}), backend="shm").close()
    chosen = [number % 1000 for number in range(1 << 20)]
    chosen = [number for number in chosen if number % 3 == 1] if library == "duckdb" else chosen
    expected = f"{len(chosen) * (ROWS >> 20)} {sum(chosen) * (ROWS >> 20)}\n"
    assert run_limited(QUERIES[library]) == expected


SAVING = """
import mshare.arrow, pyarrow
kind, path = sys.argv[1:]
mshare.arrow.save("warm", pyarrow.table({"n": [1]}), backend="shm").close()
if kind == "parquet":
    mshare.arrow.save("small", path + "/small.parquet", backend="shm").close()
    limit(64)
    mshare.arrow.save("large", path + "/large.parquet", backend="shm").close()
else:
    batch = pyarrow.record_batch({"n": pyarrow.array(range(1 << 17))})
    limit(32)
    reader = pyarrow.RecordBatchReader.from_batches(batch.schema, (batch for _ in range(96)))
    mshare.arrow.save("large", reader, backend="shm").close()
try:
    mshare.arrow.load("large")["n"].combine_chunks()
except (pyarrow.ArrowMemoryError, MemoryError):
    print("no memory for a copy")
"""


@pytest.mark.parametrize("kind", ["parquet", "reader"])
def test_saving_needs_the_memory_of_a_few_batches(world: Path, tmp_path: Path, kind: str) -> None:
    batch = pyarrow.record_batch({"n": pyarrow.array(range(1 << 17))})
    if kind == "parquet":
        for name, count in (("small", 1), ("large", 96)):
            with parquet.ParquetWriter(tmp_path / f"{name}.parquet", batch.schema) as writer:
                for _ in range(count):
                    writer.write_batch(batch)
    assert run_limited(SAVING, kind, str(tmp_path)) == "no memory for a copy\n"
    table = load("large")
    assert table.num_rows == 96 << 17
    assert table.slice(95 << 17).equals(pyarrow.Table.from_batches([batch]))


FUZZ = """
import random, sys, pyarrow, mshare, mshare.arrow
from mshare.arrow import NotATableError
found = {True: 0, False: 0}
for seed in range(int(sys.argv[2])):
    chance = random.Random(seed)
    content = bytearray(open(sys.argv[1], "rb").read())
    for _ in range(chance.randint(1, 4)):
        place, width = chance.randrange(len(content)), chance.choice([1, 1, 2, 4, 8])
        value = chance.choice([0, 127, 255])
        content[place : place + width] = bytes([value]) * min(width, len(content) - place)
    content = content[: chance.choice([len(content), len(content), chance.randrange(1, len(content))])]
    def fill(view):
        view[:] = content
    with mshare.create_anonymous(len(content), backend="shm", fill=fill) as region:
        try:
            table = mshare.arrow.load(region, validate=True)
        except NotATableError:
            found[False] += 1
            continue
        try:
            str(table), table.to_pylist()
        except (UnicodeDecodeError, ValueError, OverflowError, KeyError):
            pass  # names of columns that are not UTF-8, dates that Python does not have
        found[True] += 1
        del table
print(min(found.values()) > 0)
"""


@pytest.mark.parametrize("form", ["stream", "file"])
def test_validated_tables_of_damaged_bytes_do_not_crash(world: Path, tmp_path: Path, form: str) -> None:
    """In a process of its own: a crash would end the process."""
    rows = 40
    table = pyarrow.table(
        {
            "number": pyarrow.array([1, None, 3] * rows),
            "text": ["x", "yy", None] * rows,
            "coded": pyarrow.array(["a", "b", "c"] * rows).dictionary_encode(),
            "list": [[1, 2], [], None] * rows,
            "struct": [{"q": 1, "w": "e"}] * 3 * rows,
            "view": pyarrow.array(["longer than twelve bytes", None, "b"] * rows, pyarrow.string_view()),
            "flag": [True, False, None] * rows,
        }
    )
    path = tmp_path / "table.arrow"
    with (ipc.new_stream if form == "stream" else ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table)
    command = [sys.executable, "-c", FUZZ, str(path), "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize(
    "content", [b"\0", b"ARROW1", b"ARROW1\0\0" + bytes(99), b"\xff" * 4096, random.Random(1).randbytes(9999)]
)
def test_other_bytes_are_not_a_table(world: Path, content: bytes) -> None:
    with mshare.create_anonymous(len(content), fill=lambda view: view.__setitem__(slice(None), content)) as region:
        with pytest.raises(NotATableError, match="no valid Arrow table"):
            load(region)
        with pytest.raises(mshare.RegionNotFoundError):
            load("other")


def test_the_import_does_not_load_pyarrow() -> None:
    program = "import sys, mshare; assert not {'pyarrow', 'mshare.arrow'} & set(sys.modules); import mshare.arrow"
    subprocess.run([sys.executable, "-c", program], check=True)
    hidden = "import sys; sys.modules['pyarrow'] = None; import mshare.arrow"
    failed = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: mshare.arrow needs pyarrow: pip install 'mshare[arrow]'" in failed.stderr
