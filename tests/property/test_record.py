"""Records survive the round trip; hostile pages give `RecordError` or a record that contradicts nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mshare._core.geometry import PAGE, PMD, PUD, USER_END, round_up
from mshare._core.record import RECORD_SIZE, Record, RecordError, file_size
from mshare.testing.strategies import hostile_pages, records

settings.register_profile("mshare", deadline=None)
settings.load_profile("mshare")


@given(records())
def test_what_is_written_is_read(record: Record) -> None:
    page = record.encode()
    assert len(page) == RECORD_SIZE
    assert Record.decode(page, file_size(record.size_bytes, record.file_unit)) == record


@given(records(), st.text(st.characters(codec="utf-8"), min_size=1000, max_size=5000))
def test_a_long_reason_is_cut_at_a_character(record: Record, reason: str) -> None:
    long = record._replace(reason=reason * 5)
    read = Record.decode(long.encode(), file_size(record.size_bytes, record.file_unit))
    shown = "".join(char if char.isprintable() else "?" for char in long.reason)
    assert shown.startswith(read.reason)
    assert len(read.reason.encode()) > 3900
    assert read._replace(reason="") == record._replace(reason="")


@given(records(), st.integers(0, RECORD_SIZE - 1), st.integers(1, 255))
def test_every_flipped_byte_is_noticed(record: Record, at: int, flip: int) -> None:
    page = bytearray(record.encode())
    page[at] ^= flip
    try:
        Record.decode(bytes(page), file_size(record.size_bytes, record.file_unit))
    except RecordError:
        return
    raise AssertionError("a damaged record was accepted")


@settings(max_examples=500)
@given(hostile_pages())
def test_an_enemy_gets_nothing_past_it(page_and_size: tuple[bytes, int]) -> None:
    page, length = page_and_size
    try:
        record = Record.decode(page, length)
    except RecordError:
        return
    mapped = round_up(record.size_bytes, record.map_unit)
    assert 0 < record.size_bytes <= length - RECORD_SIZE
    assert mapped <= length or record.map_unit == PUD
    assert length % record.file_unit == 0
    assert (record.leaf_size, record.map_unit) in ((PAGE, PAGE), (PMD, PAGE), (PMD, PMD), (PAGE, PUD), (PMD, PUD))
    assert record.addr > 0
    assert record.addr % record.leaf_size == record.addr % record.map_unit == record.addr % record.align == 0
    assert record.addr + mapped <= USER_END
    assert record.backend.isprintable()
    assert record.backend
