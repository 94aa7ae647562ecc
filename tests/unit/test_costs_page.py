"""benchmarks.costs_page: figures as the program prints them, medians, ratios and targets."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import costs_page
from benchmarks.costs_page import Module

LINES = """\
fork\texit\tnothing\t90.000
fork\texit\tmemfd\t100.000
fork\texit\tregion\t130.000
fork\texit\tmemfd\t300.000
fork\texit\tregion\t119.000
fork\texit\tmemfd\t50.000
fork\texit\tregion\t110.000
fork\texit\tregion, 64 GiB sparse\t700.000
fork\texit\tmemfd, 64 GiB sparse\t100.000
faults\tin 63 other units\tregion\t0.000
ioctl\tINFO, 1 attachments\tregion\t500.000
ioctl\tINFO, 1000 attachments\tregion\t5000.000
interrupts\tCAL, 1,000 x (protect, unprotect)\tidle\t0.000
interrupts\tCAL, 1,000 x (protect, unprotect)\tstranger\t3.000
interrupts\tCAL, 1,000 x (protect, unprotect)\tattached\t2000.000
"""


@pytest.fixture
def figures() -> dict[str, Any]:
    return costs_page.nested(costs_page.parse(LINES))


def test_each_figure_is_the_median_of_its_rounds(figures: dict[str, Any]) -> None:
    module = Module.from_json(figures)
    assert module.value("fork", "exit", "memfd") == 100
    assert module.value("fork", "exit", "region") == 119
    assert module.value("fork", "exit", "elephant") is None


def test_a_ratio_compares_with_the_memfd_of_the_same_kind(figures: dict[str, Any]) -> None:
    module = Module.from_json(figures)
    assert module.ratio("fork", "exit") == pytest.approx(1.19)
    assert module.ratio("fork", "exit", "region, 64 GiB sparse") == pytest.approx(7)
    assert module.ratio("ioctl", "INFO, 1 attachments") is None


def test_targets_say_what_was_met(figures: dict[str, Any]) -> None:
    met = {target.text: target.met for target in costs_page.targets(Module.from_json(figures))}
    assert met == {
        "exit with a region: at most 1.2 times the cost with a memfd": True,
        "exit with a region, 64 GiB sparse: at most 1.2 times the cost with a memfd": False,
        "no fault in other units": True,
        "INFO, 1,000 attachments: costs the same as with 1": False,
        "a stranger's CPU is not interrupted by 2,000 changes of protection": True,
    }


def test_the_page_has_every_figure_with_and_without_the_module_of_before(figures: dict[str, Any]) -> None:
    document = {
        "kernel": "6.12",
        "commit": "5e672a1",
        "before": "c40e4c9",
        "facts": {"date": "today"},
        "modules": {"now": figures},
    }
    alone = costs_page.page(document | {"before": None}, ["a remark"])
    assert "| exit | 90 | 100 | 119 | 1.19 |" in alone
    assert "- a remark" in alone
    assert "Before" not in alone
    assert "| before" not in alone
    both = costs_page.page(document | {"modules": {"now": figures, "before": figures}}, [])
    assert "| exit | 90 | 100 | 119 | 1.19 | 119 | 1.19 |" in both
    assert "module of commit c40e4c9" in both


def test_a_line_that_is_no_figure_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a figure"):
        costs_page.parse("fork\texit\t1\n")


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0, "0"), (1234.4, "1,234"), (2_345_678, "2.35 M")])
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert costs_page.number(value) == text
