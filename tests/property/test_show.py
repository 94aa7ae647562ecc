"""Any name, even a hostile one, is shown as one harmless line on the terminal."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from mshare._core.record import RegionInfo
from mshare._tools.show import region_fields, region_json, regions_table, without
from mshare._tools.table import printable

texts = st.text(st.characters(exclude_categories=[]), max_size=40)


def info(name: str, *, pids: tuple[int, ...] = (), orphan: bool = True) -> RegionInfo:
    return RegionInfo(
        name=name,
        size=5000,
        mode=0o640,
        uid=7,
        backend="shm",
        leaf_size=4096,
        map_unit=4096,
        addr=0x2000_0000_0000,
        pids=pids,
        orphan=orphan,
        created=1000.0,
        reason=name,
        frozen=False,
        reserved=True,
        named=True,
        path=f"/x/{name}",
        memory_bytes=12288,
        shared_table_bytes=None,
        charged_bytes=None,
        huge_pages=None,
        huge_fallbacks=None,
    )


@given(texts)
def test_no_control_character_survives(text: str) -> None:
    shown = printable(text)
    for char in shown:
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20))
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


@given(texts)
def test_tables_and_fields_are_one_line_each(name: str) -> None:
    table = regions_table([info(name)], 1000.0, lambda _: name)
    cells = [*table.rows[0], *(text for _, text in region_fields(info(name), 1000.0, lambda _: name))]
    assert all(cell.isprintable() for cell in cells)
    assert len(table.rows[0]) == len(table.headers)


@given(st.text(max_size=40))
def test_json_has_the_name_itself(name: str) -> None:
    text = json.dumps(region_json(info(name)))
    assert text.isprintable()
    assert json.loads(text)["name"] == name
    assert json.loads(text)["mode"] == "0640"


def test_memory_in_pages_and_in_shared_tables() -> None:
    private = info("a")
    assert dict(region_fields(private, 1000.0, str))["memory"] == "12 KiB in pages"
    assert [region_json(private)[key] for key in ("memory_bytes", "shared_table_bytes", "charged_bytes")] == [
        12288,
        None,
        None,
    ]
    shared = private._replace(memory_bytes=64 << 20, shared_table_bytes=132 << 10, charged_bytes=67391488)
    assert dict(region_fields(shared, 1000.0, str))["memory"] == (
        "64 MiB in pages, 132 KiB in shared page tables; counts 64.2 MiB of the mount's size="
    )
    assert region_json(shared)["charged_bytes"] == 67391488


def test_who_is_attached() -> None:
    def users(region: RegionInfo) -> str:
        return regions_table([region], 1000.0, str).rows[0][7]

    assert users(info("a")) == "orphan"
    assert users(info("a", pids=(3, 5), orphan=False)) == "2"
    assert users(info("a", orphan=False)) == "others"


def test_a_region_without_its_maker() -> None:
    assert without(info("a", pids=(3,), orphan=False), 3) == info("a")
    assert without(info("a", pids=(3, 5), orphan=False), 3).pids == (5,)
