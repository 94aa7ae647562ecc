"""Tables in terminals of every width: nothing but the column that folds is ever broken."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare._tools.cli._console import print_fields, print_table
from mshare._tools.table import Table

words = st.text(alphabet="abcXYZ019._/", min_size=1, max_size=24)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = draw(st.integers(1, 8))
    row = st.tuples(*[words] * columns)
    rows = tuple(draw(st.lists(row, max_size=4)))
    return Table(draw(row), rows, frozenset(draw(st.sets(st.integers(1, 8)))), draw(st.integers(0, columns - 1)))


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_table_is_whole_at_every_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @given(tables(), st.integers(1, 200))
    def check(table: Table, width: int) -> None:
        monkeypatch.setitem(os.environ, "COLUMNS", str(width))
        print_table(table)
        lines = printed(capsys)
        for row in (table.headers, *table.rows):
            whole = [cell for index, cell in enumerate(row) if index != table.fold]
            assert any(all(cell in line.split() for cell in whole) for line in lines)
        folded = "".join("".join(line.split()) for line in lines)
        for row in table.rows:
            assert row[table.fold][:8] in folded

    check()


def test_a_number_beside_its_label_is_whole_at_every_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.integers(1, 200))
    def check(fields: list[tuple[str, str]], width: int) -> None:
        monkeypatch.setitem(os.environ, "COLUMNS", str(width))
        print_fields(fields)
        lines = printed(capsys)
        for pair in fields:
            assert list(pair) in [line.split() for line in lines]

    check()
