"""Snapshots survive being saved. A file that is broken, or not a snapshot, is reported."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare._core.errors import NotASnapshotError
from mshare._tools.scan.groups import KEYS, groups
from mshare._tools.scan.saved import MOST_BYTES, VERSION, dump, load, read
from mshare._tools.scan.show import groups_table, remarks, survey_json, table, totals
from mshare._tools.scan.snapshot import Snapshot
from mshare._tools.scan.survey import survey
from mshare.testing.strategies import snapshots


@given(snapshots())
def test_what_is_saved_is_what_is_read(snapshot: Snapshot) -> None:
    assert load(dump(snapshot)) == snapshot


@given(snapshots(), st.data())
def test_a_cut_or_damaged_snapshot_is_refused(snapshot: Snapshot, data: st.DataObject) -> None:
    raw = dump(snapshot)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(NotASnapshotError):
        load(cut)
    at = data.draw(st.integers(10, len(raw) - 1))  # the first ten bytes are gzip's header: time and system
    broken = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    try:
        read = load(broken)
    except NotASnapshotError:
        return
    assert read == snapshot  # one of the bits that fill up the last compressed byte: they mean nothing


@given(st.binary())
def test_bytes_that_are_no_snapshot_are_refused(raw: bytes) -> None:
    with pytest.raises(NotASnapshotError):
        load(raw)


class Endless(io.RawIOBase):
    """A device without an end: `start`, and then `piece` again and again. The device counts the bytes read."""

    def __init__(self, start: bytes, piece: bytes) -> None:
        self._rest, self._piece = start, piece
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "never all of it"
        while len(self._rest) < size:
            self._rest += self._piece
        given, self._rest = self._rest[:size], self._rest[size:]
        self.taken += size
        return given


@given(st.binary(min_size=1), st.binary(min_size=1, max_size=100))
def test_a_device_is_refused_by_its_first_bytes(start: bytes, piece: bytes) -> None:
    device = Endless(start, piece)
    with pytest.raises(NotASnapshotError):
        read(device)  # type: ignore[arg-type]
    assert device.taken <= 1 << 20


def test_an_endless_file_that_unpacks_to_nothing_is_refused() -> None:
    """gzip's header, and then stored blocks of no bytes, none of which is the last."""
    device = Endless(gzip.compress(b"", mtime=0)[:10], b"\x00\x00\x00\xff\xff" * 1000)
    with pytest.raises(NotASnapshotError, match="more than"):
        read(device)  # type: ignore[arg-type]
    assert device.taken <= MOST_BYTES + (1 << 20)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
)


@given(snapshots(), json_values, st.data())
def test_whatever_stands_in_a_field_is_refused_or_harmless(snapshot: Snapshot, value: Any, data: st.DataObject) -> None:
    """Replace one value anywhere in the document: loading refuses it, or the snapshot can be judged and shown."""
    document = json.loads(gzip.decompress(dump(snapshot)))
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        for key in inside if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ():
            places.append((inside, key))
            walk(inside[key])

    walk(document)
    inside, key = data.draw(st.sampled_from(places))
    inside[key] = value
    try:
        read = load(gzip.compress(json.dumps(document).encode()))
    except NotASnapshotError:
        return
    show_all(read)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(taken=(1 << 40) - 1),
        lambda d: d["machine"]["memory"].update(Hugepagesize=0),
        lambda d: d["machine"].update(host="\ud800"),
        lambda d: d["processes"].append(d["processes"][0]),
        lambda d: d.update(exact=not d["exact"]),
        lambda d: d["processes"][1][7].append(d["processes"][1][7][0]),
    ],
    ids=["year 36812", "no huge page", "surrogate", "a pid twice", "walked or not", "entries twice"],
)
def test_what_contradicts_itself_is_refused(change: Callable[[Any], None]) -> None:
    raw = (Path(__file__).parents[1] / "data" / "postgres-15-exact.snapshot").read_bytes()
    document = json.loads(gzip.decompress(raw))
    change(document)
    with pytest.raises(NotASnapshotError):
        load(gzip.compress(json.dumps(document).encode()))


def test_a_newer_format_is_named() -> None:
    raw = gzip.compress(json.dumps({"mshare_snapshot": VERSION + 1}).encode())
    with pytest.raises(NotASnapshotError, match=f"format {VERSION + 1}.*newer"):
        load(raw)


def test_a_small_file_that_unpacks_to_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mshare._tools.scan.saved.MOST_BYTES", 1 << 20)
    with pytest.raises(NotASnapshotError, match="unpacks to more"):
        load(gzip.compress(b"\0" * (8 << 20)))


@given(snapshots())
def test_everything_shown_is_printable_and_adds_up(snapshot: Snapshot) -> None:
    show_all(snapshot)


def show_all(snapshot: Snapshot) -> None:
    found = survey(snapshot)
    sums = found.totals
    assert sums.page_tables == (sums.processes + sums.unreadable - sums.counted_twice + sums.regions + sums.unexplained)
    for usage in found.usages:
        assert 0 <= usage.now.lower <= usage.now.likely <= usage.now.upper
    text = [cell for row in table(found, least=0, processes=7).rows for cell in row]
    text += [part for line in totals(snapshot, found) for part in line]
    text += remarks(snapshot, found)
    for key in KEYS:
        found_groups = groups(snapshot, found, key)
        assert sum(group.vmpte for group in found_groups) == sum(each.vmpte for each in snapshot.processes)
        text += [cell for row in groups_table(found_groups, key, 0).rows for cell in row]
    assert all(cell.isprintable() for cell in text)
    json.dumps(survey_json(snapshot, found, least=0, processes=7))
