"""`mshare top` driven by keys inside textual's Pilot, with readings made by hand, so that every figure is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Footer, Static

from mshare._core.units import GIB, KIB
from mshare._tools.scan.snapshot import Area, Object, Process, Snapshot, System
from mshare._tools.scan.survey import survey
from mshare._tools.top.app import TopApp
from mshare._tools.top.rows import Reading

NASTY = "/dev/shm/a\n\x1b]0;gone\x07[red]b[/red] :smile: \u202e"
LIMIT_S = 30


def reading(costs: dict[str, list[int]]) -> Reading:
    """Return a machine on which each object is mapped by one process for each number, its VmPTE in KiB."""
    objects, processes = [], []
    for index, (path, vmptes) in enumerate(costs.items()):
        objects.append(Object("tmpfs", 5, ord(path[1]), 0, path, False, 4096, "", (4096,)))
        for number, vmpte in enumerate(vmptes):
            area = Area(GIB, (2 + index) * GIB, 0, index, True, True)
            pid = 1000 * (index + 1) + number
            processes.append(
                Process(pid, f"command{number}", number, f"/x.slice/unit{index}.service", 0, vmpte * KIB, (area,))
            )
    total = sum(each.vmpte for each in processes)
    system = System("host", "6.12", {"PageTables": total, "MemTotal": 10 * total}, {}, ())
    snapshot = Snapshot(0.0, system, tuple(objects), tuple(processes), {0: "root"}, 0, False, False)
    return Reading(snapshot, survey(snapshot))


class Source:
    """Gives the readings that the test puts in, each when the test says so."""

    def __init__(self, *readings: Reading | Exception) -> None:
        self.readings = list(readings)
        self.asked = threading.Semaphore(1)
        self.calls = 0

    def __call__(self) -> Reading:
        self.calls += 1
        assert self.asked.acquire(timeout=LIMIT_S)
        found = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(found, Exception):
            raise found
        return found


def lines(app: TopApp) -> list[list[str]]:
    table = app.screen.query_one(DataTable)
    cells = [table.get_row_at(index) for index in range(table.row_count)]
    assert all(isinstance(cell, Text) for row in cells for cell in row)  # a str would be read as markup
    return [[cell.plain for cell in row] for row in cells]


def names(app: TopApp) -> list[str]:
    return [row[-1] for row in lines(app)]


def selected(app: TopApp) -> str:
    return names(app)[app.screen.query_one(DataTable).cursor_row]


def text(app: TopApp, which: str) -> str:
    return str(app.screen.query_one(f"#{which}", Static).render())


async def until(pilot: Pilot[int], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await pilot.pause(0.01)


def drive(source: Source, script: Callable[[TopApp, Pilot[int]], Awaitable[None]], count: int | None = None) -> TopApp:
    """Run `script` on an app that has shown its first reading."""

    async def run() -> TopApp:
        app = TopApp(source, interval_s=0.01, least=0, count=count)
        async with app.run_test(size=(140, 40)) as pilot:
            await until(pilot, lambda: len(lines(app)) > 0)
            await script(app, pilot)
        return app

    return asyncio.run(run())


THREE = {"/b": [100, 100], "/a": [160], "/c": [12, 12, 12, 12]}
"""/b costs most, /a has one process, /c has most processes and the largest size."""


def test_the_keys_sort_and_the_footer_names_them() -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        assert names(app) == ["/b", "/a", "/c"]
        for key, order in {"o": "abc", "c": "cba", "s": "cab", "n": "bac"}.items():
            await pilot.press(key)
            assert [name[1:] for name in names(app)] == list(order), key
        shown = {binding.binding.description for binding in app.screen.active_bindings.values() if binding.binding.show}
        assert {"now", "size", "procs", "object", "processes", "groups", "pause", "quit"} <= shown
        assert app.screen.query(Footer)
        assert "10.0 % of" in text(app, "heading")
        assert "% explained" in text(app, "heading")

    drive(Source(reading(THREE)), script)


def test_enter_opens_the_processes_and_escape_goes_back_to_the_same_object() -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("down", "enter")
        await until(pilot, lambda: text(app, "note") == "/a")
        assert [row[1:] for row in lines(app)] == [["160 KiB", "2000", "root", "command0"]]
        await pilot.press("escape")
        await until(pilot, lambda: names(app) == ["/b", "/a", "/c"])
        assert selected(app) == "/a"
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(lines(app)) == 4)
        await pilot.press("i")
        assert [row[2] for row in lines(app)] == ["3003", "3002", "3001", "3000"]

    drive(Source(reading(THREE)), script)


def test_g_groups_by_command_user_and_unit() -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        for by, expected in {
            "command": ["command0", "command1", "command2", "command3"],
            "user": ["root", "1", "2", "3"],
            "unit": ["unit0.service", "unit1.service", "unit2.service"],
        }.items():
            await pilot.press("g")
            await until(pilot, lambda by=by: text(app, "note") == f"by {by}")  # type: ignore[misc]
            assert names(app) == expected
        await pilot.press("escape")
        assert names(app) == ["/b", "/a", "/c"]

    drive(Source(reading(THREE)), script)


def test_the_selection_stays_on_its_object_while_the_order_changes() -> None:
    source = Source(
        reading(THREE),
        reading({"/b": [4], "/a": [160], "/c": [100] * 4}),
        reading({"/b": [400], "/x": [300], "/a": [160], "/c": [1]}),
        reading({"/b": [400], "/c": [1]}),
    )

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("down", "down")
        assert selected(app) == "/c"
        for order in (["/c", "/a", "/b"], ["/b", "/x", "/a", "/c"]):
            source.asked.release()
            await until(pilot, lambda order=order: names(app) == order)  # type: ignore[misc]
            assert selected(app) == "/c"
        await pilot.press("o")
        assert selected(app) == "/c"

    drive(source, script)


def test_keys_are_answered_while_reading_and_pause_stops_it() -> None:
    source = Source(reading(THREE))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("o")  # the second reading is waiting for its semaphore all the time
        assert names(app) == ["/a", "/b", "/c"]
        await pilot.press("p")
        assert "paused" in text(app, "heading")
        source.readings = [reading({"/z": [8]})]
        source.asked.release()  # the reading under way arrives, and the next one does not begin
        await until(pilot, lambda: names(app) == ["/z"])
        source.readings = [reading({"/y": [8]})]
        source.asked.release()
        await pilot.press(*"osconsco")  # each reading takes as long as some intervals
        assert names(app) == ["/z"]
        assert source.calls == 2
        await pilot.press("p")
        await until(pilot, lambda: names(app) == ["/y"])
        assert "paused" not in text(app, "heading")

    drive(source, script)


def test_a_reading_that_fails_is_told_and_the_next_one_shown() -> None:
    source = Source(reading(THREE), PermissionError(13, "closed\x1b[2J"), reading({"/z": [8]}))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        source.asked.release()
        await until(pilot, lambda: "not read" in text(app, "heading"))
        assert "closed\\x1b[2J" in text(app, "heading")
        assert names(app) == ["/b", "/a", "/c"]
        source.asked.release()
        await until(pilot, lambda: names(app) == ["/z"])
        assert "not read" not in text(app, "heading")

    drive(source, script)


def test_an_object_that_goes_while_it_is_open_says_so() -> None:
    source = Source(reading(THREE), reading({"/b": [4]}))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("down", "enter")
        await until(pilot, lambda: text(app, "note") == "/a")
        source.asked.release()
        await until(pilot, lambda: text(app, "note") == "nobody maps it any more")
        await pilot.press("t", "down", "enter", "escape")
        await until(pilot, lambda: names(app) == ["/b"])

    drive(source, script)


@pytest.mark.parametrize("keys", [[], ["enter"], ["g"]])
def test_names_are_printed_as_they_are_with_what_moves_a_cursor_escaped(keys: Iterable[str]) -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press(*keys)
        await until(pilot, lambda: "/dev/shm/a" in "".join(names(app)) or keys != [])
        shown = "".join(cell for row in lines(app) for cell in row) + text(app, "note") + text(app, "heading")
        assert shown.isprintable()
        if keys != ["g"]:
            await until(pilot, lambda: "[red]b[/red] :smile:" in "".join([*names(app), text(app, "note")]))

    drive(Source(reading({NASTY: [8]})), script)


def test_count_ends_it_with_0_and_q_too() -> None:
    async def nothing(app: TopApp, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.return_code is not None)

    async def leave(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("q")

    assert drive(Source(reading(THREE)), nothing, count=1).return_value == 0
    assert drive(Source(reading(THREE)), leave).return_value == 0
