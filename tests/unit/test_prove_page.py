"""The page about `make prove`: targets met and missed, and the text for a death, the full size and a partial run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import prove
from benchmarks.prove_page import Results, page, targets
from mshare._tools.lab.run import Run, Sample, Spread

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def run(mechanism: str, size: int, own: int, each: int, reached: int, **more: Any) -> Run:
    """Make a run whose region costs `own` and `each` per client, beside 64 KiB of a client's own memory."""
    counts = (1, reached)
    return Run(
        mechanism, f"label of {mechanism}", size, 4096, 1500, "machine", 4 * GIB,
        samples=tuple(Sample(n, own + (each + 64 * KIB) * n, GIB) for n in counts),
        base=tuple(Sample(n, 64 * KIB * n, 3 * GIB) for n in counts),
        created_tables_bytes=own, reached=reached, asked=reached, survivors=reached, newcomer="ok",
        faults=Spread(0, 0, 0), fork_ns=10, exit_ns=20, facts={"kernel": "6.12.0"}, **more,
    )  # fmt: skip


PLAIN = run(
    "plain", 2400 * MIB, 5 * MIB, 5 * MIB, 250, oom_kills=3, ended_by="out of memory", oom_log=("Killed process 7",)
)
OURS = run("msharefs", 2400 * MIB, 5 * MIB, 4 * KIB, 1500)


def results(**guests: list[Run]) -> Results:
    document = {
        "factor": 128,
        "guests": {
            name: {"seconds": 60.0, "facts": {"date": "today"}, "runs": [each.as_json() for each in runs]}
            for name, runs in guests.items()
        },
    }
    return Results.from_json(document)


def met(found: Results) -> dict[str, bool]:
    return {target.text.partition(":")[0].partition(" (")[0]: target.met for target in targets(found)}


def test_targets_are_judged_by_what_was_measured() -> None:
    all_met = met(results(plain=[PLAIN], msharefs=[OURS]))
    assert set(all_met.values()) == {True}
    assert all_met.keys() == {
        "4 KiB pages of one's own",
        "msharefs",
        "every client reads what the creator wrote",
        "every client survives the creator's SIGKILL",
        "no region faults per client on a warm region, of any size",
        "page tables that the region causes",  # 1,500 x 5 MiB against 5 MiB + 1,500 x 4 KiB: 1/690
    }


@pytest.mark.parametrize(
    ("mechanisms", "missed"),
    [
        ([replace(PLAIN, reached=1500)], "4 KiB pages of one's own: memory runs out, and the kernel says so"),
        ([replace(PLAIN, oom_log=())], "4 KiB pages of one's own: memory runs out, and the kernel says so"),
        ([replace(OURS, reached=1499)], "msharefs: all 1,500 clients are reached"),
        ([replace(OURS, newcomer="gone")], "msharefs: the name outlives the creator"),
        ([replace(OURS, wrong=1)], "every client reads what the creator wrote"),
        ([replace(OURS, failure="stuck")], "msharefs: all 1,500 clients are reached"),
        ([replace(OURS, survivors=1499)], "every client survives the creator's SIGKILL"),
        ([replace(OURS, faults=Spread(0, 0, 1))], "no region faults per client on a warm region, of any size"),
        (
            [PLAIN, run("msharefs", 2400 * MIB, 5 * MIB, 10 * KIB, 1500)],
            "page tables that the region causes: at most 1/400 of what private 4 KiB pages need",
        ),
    ],
)
def test_each_target_can_be_missed(mechanisms: list[Run], missed: str) -> None:
    found = targets(results(guest=mechanisms))
    assert [target.text for target in found if not target.met] == [missed]


def test_a_way_that_cannot_be_had_is_a_miss() -> None:
    found = targets(results(guest=[replace(OURS, reached=0, unavailable="no huge pages", newcomer="")]))
    assert found[0].text.startswith("msharefs: all 1,500")
    assert not found[0].met


def swept(size: int, each: int = 4 * KIB, **more: Any) -> Run:
    return replace(run("msharefs", size * MIB, size * 2 * KIB, each, 32), wanted=32, **more)


def test_the_sweep_is_judged_by_slope_and_ratio() -> None:
    flat = [swept(size) for size in (64, 256, 4096)]
    assert set(met(results(sweep=flat)).values()) == {True}
    steep = [*flat[:2], *(swept(4096, 16 * KIB, fork_ns=fork, exit_ns=27) for fork in (10, 13, 99))]  # median 13
    missed = {
        target.text.partition(":")[0].partition(" (")[0]
        for target in targets(results(sweep=steep[::-1]))
        if not target.met
    }
    assert missed == {"page tables per further client do not depend on the size", "fork", "exit"}


def test_a_sweep_without_its_clients_is_a_miss_and_no_more() -> None:
    sweep = [swept(64), replace(swept(4096), reached=0, asked=0, survivors=0, unavailable="no module")]
    found = targets(results(sweep=sweep))
    assert [target.text for target in found if not target.met] == ["by size: 32 clients are reached in every run"]
    assert not any(target.text.startswith("page tables per") for target in found)


def test_the_full_size_is_judged_too() -> None:
    ours = replace(
        run("msharefs", 300 * GIB, 601 * MIB, 4 * KIB, 1499),
        faults=Spread(0, 0, 1),
        wrong=1,
        survivors=1490,
        killed_later=8,
    )
    missed = [target.text for target in targets(results(full=[ours])) if not target.met]
    assert missed == [
        "every client reads what the creator wrote",
        "every client survives the creator's SIGKILL",
        "no region faults per client on a warm region, of any size",
        "300 GiB: msharefs reaches 1,500 clients",
    ]
    assert "1/1,4" not in page(results(full=[ours]), picture_name="prove.svg")


def test_the_page_shows_the_death_and_says_what_is_emulated() -> None:
    text = page(results(plain=[PLAIN], msharefs=[OURS]), picture_name="prove.svg")
    assert "Killed process 7" in text
    assert "250 †" in text
    assert "times are distorted" in text
    assert "![page tables against number of clients](prove.svg)" in text
    assert "## The full size" not in text


def test_the_full_size_says_how_its_tables_are_filled() -> None:
    ours = replace(run("msharefs", 300 * GIB, 601 * MIB, 4 * KIB, 1500), step_bytes=2 * MIB)
    text = page(results(full=[ours], plain=[PLAIN]), picture_name="prove.svg")
    assert "one page of every 2 MiB exists" in text
    assert "1 of 512 entries" in text
    assert "The proposal's 878 GiB against 606 MiB: 1/1,482." in text


def test_each_way_has_a_guest_of_the_servers_size() -> None:
    found = prove.guests(128)
    assert [guest.name for guest in found] == [*prove.MECHANISMS, "sweep", "full"]
    assert {guest.memory_bytes for guest in found[:5]} == {4 * GIB}
    hugetlb = next(guest for guest in found if guest.name == "hugetlb")
    assert hugetlb.huge_pages * 2 * MIB >= 300 * GIB // 128


def test_a_small_run_has_one_guest_and_the_way_that_dies_comes_last() -> None:
    (guest,) = prove.guests(512)
    mechanisms = [mechanism for load in guest.loads for mechanism in load[1].split(",")]
    assert {*mechanisms, "shared_memory"} == set(prove.MECHANISMS)
    assert mechanisms[0] == "hugetlb"  # its pages are given back after it
    assert mechanisms[-1] == "plain"
    assert guest.huge_pages * 2 * MIB >= 300 * GIB // 512
