"""The screens: a table of objects, of one object's processes, of groups. May depend on: rows, rich, textual.

Cells are `rich.text.Text`, which nothing interprets.
"""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from . import rows as _rows
from .rows import Column, Reading, Row


def _sorting(columns: tuple[Column, ...]) -> list[BindingType]:
    return [
        Binding(column.key, f"sort({index})", column.title if column.title == "VmPTE" else column.title.lower())
        for index, column in enumerate(columns)
        if column.key
    ]


class Outdated(Message):
    """This screen should show the last reading."""


class TableScreen(Screen[None]):
    """A table that keeps its selection on what it is about, whatever the order."""

    COLUMNS: ClassVar[tuple[Column, ...]]
    TABLE: ClassVar[type[DataTable[Text]]] = DataTable
    DEFAULT_CSS = """
    TableScreen > #heading { height: 1; text-style: bold; }
    TableScreen > #note { height: 1; color: $text-muted; }
    TableScreen > DataTable { height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._sorted_by = 0
        self._shown: list[Row] = []

    def compose(self) -> ComposeResult:
        yield Static(id="heading")
        yield self.TABLE(cursor_type="row")
        yield Static(id="note")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        for index, column in enumerate(self.COLUMNS):
            self._table.add_column(self._header(index), key=column.title)

    def on_screen_resume(self) -> None:
        self.post_message(Outdated())

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def rows(self, reading: Reading) -> tuple[list[Row], str]:
        """Return the lines, and what to say below them."""
        raise NotImplementedError

    def show(self, reading: Reading, heading: str) -> None:
        """Show what was found."""
        self.query_one("#heading", Static).update(Text(heading, overflow="ellipsis", no_wrap=True))
        found, note = self.rows(reading)
        self.query_one("#note", Static).update(Text(note, overflow="ellipsis", no_wrap=True))
        self._fill(_rows.ordered(found, self.COLUMNS, self._sorted_by))

    def action_sort(self, column: int) -> None:
        """Sort by a column, and show the line that is selected at its new place."""
        before, self._sorted_by = self._sorted_by, column
        for index in (before, column):
            self._table.ordered_columns[index].label = self._header(index)
        self._fill(_rows.ordered(self._shown, self.COLUMNS, column), anew=True)

    def selected(self) -> str | None:
        """Return the key of the line under the cursor."""
        at = self._table.cursor_row
        return self._shown[at].key if 0 <= at < len(self._shown) else None

    def _header(self, index: int) -> Text:
        column = self.COLUMNS[index]
        mark = "▼" if index == self._sorted_by else " "
        return Text(f"{column.title} {mark}", justify="right" if column.number else "left")

    def _cell(self, column: int, text: str) -> Text:
        return Text(text, justify="right" if self.COLUMNS[column].number else "left", no_wrap=True)

    def _fill(self, wanted: list[Row], *, anew: bool = False) -> None:
        table, before, selected = self._table, self._shown, self.selected()
        self._shown = wanted
        if not anew and [row.key for row in before] == [row.key for row in wanted]:
            for at, (old, new) in enumerate(zip(before, wanted, strict=True)):
                for column, text in enumerate(new.cells):
                    if text != old.cells[column]:
                        table.update_cell_at(Coordinate(at, column), self._cell(column, text), update_width=True)
            return
        at, scrolled = table.cursor_row, table.scroll_y
        table.clear()
        for row in wanted:
            table.add_row(*(self._cell(column, text) for column, text in enumerate(row.cells)), key=row.key)
        table.scroll_to(y=scrolled, animate=False)
        keys = [row.key for row in wanted]
        table.move_cursor(row=keys.index(selected) if selected in keys else min(at, len(keys) - 1))


class _Openable(DataTable[Text]):
    """A table whose footer says what Enter does. *Fact:* a binding of the screen would have to have priority over the
    table's own, and then overtakes keys pressed before it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "processes")]


class ObjectsScreen(TableScreen):
    """The objects for which page tables exist, like `mshare scan`."""

    COLUMNS = _rows.OBJECTS
    TABLE = _Openable
    BINDINGS: ClassVar[list[BindingType]] = [
        *_sorting(_rows.OBJECTS),
        Binding("g", "groups", "groups"),
    ]

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least = least

    def rows(self, reading: Reading) -> tuple[list[Row], str]:
        return _rows.objects(reading, self._least)

    def on_data_table_row_selected(self, chosen: DataTable.RowSelected) -> None:
        if chosen.row_key.value is not None:
            self.app.push_screen(ProcessesScreen(chosen.row_key.value))

    def action_groups(self) -> None:
        self.app.push_screen(GroupsScreen())


class ProcessesScreen(TableScreen):
    """The processes that map one object, and what each pays."""

    COLUMNS = _rows.PROCESSES
    BINDINGS: ClassVar[list[BindingType]] = [*_sorting(_rows.PROCESSES), Binding("escape", "app.pop_screen", "back")]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def rows(self, reading: Reading) -> tuple[list[Row], str]:
        return _rows.processes(reading, self._key)


class GroupsScreen(TableScreen):
    """All page tables by who has them."""

    COLUMNS = _rows.GROUPS
    BINDINGS: ClassVar[list[BindingType]] = [
        *_sorting(_rows.GROUPS),
        Binding("g", "next", "command/user/unit"),
        Binding("escape", "app.pop_screen", "back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._by = 0

    def rows(self, reading: Reading) -> tuple[list[Row], str]:
        return _rows.grouped(reading, _rows.GROUPED_BY[self._by])

    def action_next(self) -> None:
        self._by = (self._by + 1) % len(_rows.GROUPED_BY)
        self.post_message(Outdated())
