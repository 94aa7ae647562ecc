"""A backend is one file and one line in `ALL`: every tool finds it there."""

from __future__ import annotations

from pathlib import Path

import pytest

import mshare
from mshare.__main__ import main
from mshare._core import backends
from mshare._core.backend import Costs, Offer
from mshare._core.backends.shm import Shm
from mshare._core.geometry import PAGE
from mshare._core.units import GIB
from mshare._tools.scan.case import Case
from mshare._tools.scan.remedies import remedies
from mshare._tools.scan.survey import survey
from mshare.measure import Mshare
from tests.helpers.servers import Crowd, server


class Cheap(Shm):
    """Files on tmpfs that claim one page of last-level tables for all processes together."""

    name = "cheap"
    capabilities = Shm.capabilities._replace(
        shared_tables="the last level", offer=Offer("a cheap region", "It is cheap.", ("# nothing",), "never tried")
    )

    def costs(self, size_bytes: int, processes: int) -> Costs:
        del size_bytes
        return Costs(PAGE, PAGE, 2 * PAGE, PAGE + processes * PAGE, "one page serves all.", huge_pages=7)


@pytest.fixture
def cheap(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "ALL", (Cheap(), *backends.ALL))


@pytest.mark.usefixtures("cheap")
def test_plan_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "1G", "3"]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("cheap"))
    assert row.split() == ["cheap", "4", "KiB", "4", "KiB", "4", "KiB", "8", "KiB", "16", "KiB"]
    assert "cheap: one page serves all." in shown
    assert "cheap needs 7 huge pages of 2 MiB" in shown


@pytest.mark.usefixtures("cheap")
def test_doctor_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "backend cheap" in capsys.readouterr().out


@pytest.mark.usefixtures("cheap")
def test_a_remedy_is_made_of_its_offer() -> None:
    snapshot = server(Crowd("/memfd:cache", GIB, 200, kind="memfd", deleted=True))
    usage = next(each for each in survey(snapshot).usages if each.shared)
    found = remedies(Case((usage,), snapshot.processes, snapshot), backends.ALL)
    remedy = next(each for each in found if each.name == "a cheap region")
    assert remedy.condition.endswith("It is cheap.")
    assert remedy.commands[0] == "# nothing"
    assert remedy.commands[1].endswith("--backend cheap")
    assert remedy.predicted == remedy.now
    assert remedy.evidence == "never tried"


@pytest.mark.usefixtures("cheap")
def test_regions_are_on_it_and_it_can_be_measured() -> None:
    with mshare.create("r", PAGE) as region:
        assert region.backend == "cheap"
    assert Mshare("cheap").shares_tables
    assert not Mshare("shm").shares_tables
    assert Mshare("hugetlb").shares_tables
    assert not Mshare("msharefs").shares_tables
