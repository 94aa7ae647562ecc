"""Tables in Markdown."""

from __future__ import annotations

from vm.markdown import table


def test_a_table_has_a_line_for_each_row() -> None:
    assert list(table(("name", "size"), [("a", "1"), ("b|c", "22")], right={1})) == [
        "| name | size |",
        "|---|---:|",
        "| a | 1 |",
        "| b\\|c | 22 |",
    ]
