"""Growth between snapshots, in sentences."""

from __future__ import annotations

from mshare._core.units import GIB
from mshare._tools.scan.series import Point, growth, identity, point
from mshare._tools.scan.survey import survey
from tests.helpers.servers import Crowd, postgresql, server

START = 1_700_000_000.0


def at(seconds: float, clients: int, host: str = "db1") -> Point:
    snapshot = server(postgresql(GIB, clients), Crowd("/srv/data", GIB, 10), taken=START + seconds, host=host)
    return point(snapshot, survey(snapshot))


def test_one_moment_has_no_growth() -> None:
    assert growth([]) is None
    assert growth([at(0, 1)]) is None
    assert growth([at(0, 1), at(0, 2)]) is None


def test_growth_is_told_with_its_largest_part() -> None:
    points = [at(0, 50), at(60, 60), at(120, 100)]
    changed = growth(points, {"shared anonymous #100": "PostgreSQL's shared memory"})
    assert changed is not None
    assert changed.seconds == 120
    assert changed.change == points[-1].page_tables - points[0].page_tables > 100 << 20
    first, second = changed.sentences
    assert first.startswith("In 2m (3 snapshots) page tables grew from 121 MiB to 223 MiB, 50.6")
    assert first.endswith(" MiB per minute; processes: 60 then, 110 at the end.")
    assert second == "Most of it for PostgreSQL's shared memory: 100 MiB more."


def test_shrinking_and_standing_still() -> None:
    shrunk = growth([at(0, 100), at(7200, 50)])
    assert shrunk is not None
    assert shrunk.change < 0
    assert "In 2h (2 snapshots) page tables shrank from 223 MiB to 121 MiB" in shrunk.sentences[0]
    assert "MiB per hour" in shrunk.sentences[0]
    same = growth([at(0, 50), at(1, 50)])
    assert same is not None
    assert same.sentences == (
        "In 1s (2 snapshots) page tables stayed at the same size; 60 processes then and at the end.",
    )


def test_different_machines_are_no_growth() -> None:
    mixed = growth([at(0, 50), at(60, 60, host="db2\n")])
    assert mixed is not None
    assert mixed.sentences[0].startswith(r"These snapshots are of different machines (db1, db2\n)")


def test_an_object_is_the_same_by_what_it_is() -> None:
    first, second = at(0, 50), at(60, 60)
    assert set(first.objects) == set(second.objects)
    assert None in first.objects, "private memory"
    assert identity(None) is None
