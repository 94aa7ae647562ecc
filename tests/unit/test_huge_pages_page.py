"""benchmarks.huge_pages: figures as the program prints them, medians and targets."""

from __future__ import annotations

from benchmarks.huge_pages import page, parse, targets

LINES = """\
bytes of tables of 1 GiB\tregion, 2 MiB\t4096.0
bytes of tables of 300 GiB, touched once per GiB\tregion, 2 MiB\t1228800.0
faults of the first touch of 1 GiB\tregion, 2 MiB\t512.0
faults of a further process\tregion, 2 MiB\t0.0
faults of a forked child\tregion, 2 MiB\t3.0
fallocate of 512 MiB\thugetlb\t100.0
fallocate of 512 MiB\tregion, 4 KiB\t300.0
fallocate of 512 MiB\tregion, 2 MiB\t60.0
fallocate of 512 MiB\tregion, 2 MiB\t80.0
fallocate of 512 MiB\tregion, 2 MiB\t50.0
mmap and munmap of 1 GiB, all pages there\tmemfd\t10.0
mmap and munmap of 1 GiB, all pages there\tregion, 2 MiB\t15.0
mmap, touch and munmap of 1 GiB\tmemfd\t1000.0
mmap and munmap of 300 GiB, touched once per GiB\tregion, 2 MiB\t30.0
fork and exit\tnothing\t100.0
fork and exit\tregion, 2 MiB\t110.0
MADV_DONTNEED of a page of 1 GiB\tregion, 2 MiB\t100.0
MADV_DONTNEED of a page of 1 TiB\tregion, 2 MiB\t100.0
"""


def test_targets_say_what_was_met() -> None:
    figures = parse(LINES)
    assert figures["fallocate of 512 MiB"]["region, 2 MiB"] == 60
    missed = [each.text for each in targets(figures) if not each.met]
    assert missed == ["faults of a forked child: 0", "attaching 300 GiB: at most 1.5 times attaching 1 GiB"]


def test_the_page_has_every_figure() -> None:
    document = {"kernel": "6.12", "facts": {"date": "2026-11-28"}, "figures": parse(LINES)}
    text = page(document, ["emulated"])
    assert "| faults of a forked child: 0 | 3 | **no** |" in text
    assert "| fallocate of 512 MiB | - | - | 100 | 300 | 60 |" in text
    assert "| fork and exit | 100 | - | - | - | 110 |" in text
