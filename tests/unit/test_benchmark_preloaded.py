"""The page of benchmarks.preloaded: pure."""

from __future__ import annotations

from benchmarks.preloaded import COMMANDS, EMPTY, LIBRARY, PLAIN, Added, markdown

MACHINE = {"cpus": 2, "cpu": "a processor", "kernel": "6.18", "python": "3.11", "load_1min": 1.0}


def an_added(command: str, way: str, instructions: int | None) -> Added:
    return Added(command, way, 900.0, 800.0, (-1.4, 60.0, 90.6), (1.0, 2.0, 3.0), instructions)


def page(*instructions: int | None) -> list[str]:
    ways = zip((PLAIN, EMPTY, LIBRARY), instructions, strict=True)
    rows = [an_added(command, way, count) for way, count in ways for command in COMMANDS]
    return [line for line in markdown(rows, MACHINE, 5).splitlines() if line.startswith("| true")]


def test_differences_are_shown_beside_what_is_preloaded() -> None:
    plain, _, library = page(1000, 1100, 1290)
    assert plain == f"| true | {PLAIN} | 900 µs |  | 800 µs |  | 1,000 |"
    assert library == f"| true | {LIBRARY} | 900 µs | 60 µs (-1 to 91) | 800 µs | 2 µs (1 to 3) | +290 (+29 %) |"


def test_a_page_without_counts_says_so() -> None:
    assert all(line.endswith("| not counted |") for line in page(None, None, None))
