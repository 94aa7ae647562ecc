"""vm.page: the last result of each kernel, and the kernels that `make test` boots."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vm import page

FACTS = {"commit": "a387638", "date": "2026-11-27", "host": "EPYC, 2 CPUs", "qemu": "QEMU 7.2.22", "arguments": ""}


def _item(release: str, **changes: Any) -> dict[str, Any]:
    return {
        "kernel": release,
        "outcome": "passed",
        "reason": "the command succeeded and the kernel log is clean",
        "exit_code": 0,
        "stage": None,
        "attempts": 1,
        "boot_seconds": 6.4,
        "total_seconds": 450.0,
        "results": "/somewhere/else",
        "complaints": [],
        "excerpt": [],
        "tests": 332,
        "failed": [],
        "skipped": [],
    } | changes


@pytest.mark.parametrize(
    ("release", "series"),
    [
        ("6.1.0-56-amd64", "6.1"),
        ("6.12.117+deb12-amd64", "6.12"),
        ("6.12.117-mshare-debug", "6.12 debug"),
        ("own", "own"),
    ],
)
def test_a_series_has_one_row(release: str, series: str) -> None:
    assert page.series(release) == series


def test_a_new_run_takes_the_place_of_the_series_last_one(tmp_path: Path) -> None:
    prefix = tmp_path / "kernels"
    for release in ("7.3.4+deb13-amd64", "6.12.117+deb12-amd64", "6.1.0-55-amd64", "6.1.0-56-amd64"):
        page.save(prefix, _item(release), FACTS)
    document = json.loads((tmp_path / "kernels.json").read_text())
    assert [row["kernel"] for row in document.values()] == [
        "6.1.0-56-amd64",
        "6.12.117+deb12-amd64",
        "7.3.4+deb13-amd64",
    ]
    assert "results" not in document["6.1"]
    text = (tmp_path / "kernels.md").read_text()
    assert "| 6.1.0-56-amd64 | passed | 332 of 332 | clean | 6 s | 450 s | a387638 | 2026-11-27 |" in text
    assert "Machine: EPYC, 2 CPUs, QEMU 7.2.22." in text


def test_what_went_wrong_is_on_the_page() -> None:
    complaint = {"kind": "bug", "number": 7, "text": "BUG: a | b"}
    failed = _item("7.2.13+deb14-amd64", outcome="failed", reason="1 test(s) failed", failed=["test_x: no"], attempts=2)
    bad = _item("7.3.4+deb13-amd64", outcome="kernel complained", complaints=[complaint], boot_seconds=None)
    text = page.as_markdown(page.merged(page.merged({}, failed, FACTS), bad, FACTS))
    assert "| failed | 331 of 332 | clean |" in text
    assert "- 7.2.13+deb14-amd64: test_x: no\n" in text
    assert "- 7.2.13+deb14-amd64: the first machine was lost" in text
    assert "not the usual run" not in text
    assert "- 7.3.4+deb13-amd64: not the usual run, but one with `-k x`.\n" in page.as_markdown(
        page.merged({}, bad, FACTS | {"arguments": "-k x"})
    )
    assert "| kernel complained | 332 of 332 | 1 complaints, the first: `BUG: a \\| b` | - |" in text


def _kernels(*settings: str) -> list[str]:
    command = ["make", "-s", "--eval", "show: ; @echo $(VM_KERNELS)", "show", *settings]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("settings", "kernels"),
    [
        ((), ["6.12"]),
        (("CI=true", "VM_COMMIT=0000000f"), ["6.12", "6.1"]),
        (("CI=true", "VM_COMMIT=00000010"), ["6.12", "7.2"]),
        (("CI=true", "VM_COMMIT=0000002f"), ["6.12", "7.3"]),
        (("CI=true", "VM_COMMIT="), ["6.12", "6.1"]),
        (("CI=true", "VM_OTHER=7.3"), ["6.12", "7.3"]),
    ],
)
def test_ci_boots_one_other_kernel_by_the_commit(settings: tuple[str, ...], kernels: list[str]) -> None:
    assert _kernels(*settings) == kernels


def test_what_ci_runs_is_shell_that_parses() -> None:
    # A comma in the text cut $(if ...) short once, and the other half of a quoted sentence ran as a command.
    root = Path(__file__).parents[2]
    make = ["make", "-n", "test-vm", "CI=true", "VM_COMMIT=00000010"]
    recipe = subprocess.run(make, cwd=root, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert "the commit's hash chose 7.2" in recipe.stdout
    subprocess.run(["sh", "-n"], input=recipe.stdout, text=True, check=True)
