"""vm.junit and vm.suite.judge: a pass needs tests, and none of them skipped."""

from __future__ import annotations

import pytest

from vm import dmesg, junit, suite, verdict

HEAD = '<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">'
TAIL = "</testsuite></testsuites>"
GOOD = '<testcase classname="tests.kernel.test_a" name="test_x" time="0.1"/>'
CASE = '<testcase classname="tests.kernel.test_a" name="{}">{}</testcase>'
SKIP = CASE.format("test_s", '<skipped type="pytest.skip" message="no huge pages">f.py:1</skipped>')
FAIL = CASE.format("test_f", '<failure message="assert 0">f.py:2</failure>')
BROKEN = CASE.format("test_e", '<error message="failed on setup">f.py:3</error>')

PASSED = verdict.judge(
    b'{"event": "start"}\n{"event": "exit", "status": 0, "expired": false}\n{"event": "end", "tainted": 0}\n',
    f"{dmesg.FIRST_PROCESS}\n",
    "",
)


def xml(*cases: str) -> bytes:
    return (HEAD + "".join(cases) + TAIL).encode()


def test_counts_and_reasons() -> None:
    report = junit.parse(xml(GOOD, SKIP, FAIL, BROKEN))
    assert report.tests == 4
    assert report.skipped == ("tests.kernel.test_a::test_s: no huge pages",)
    assert report.failed == ("tests.kernel.test_a::test_f: assert 0", "tests.kernel.test_a::test_e: failed on setup")


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (xml(GOOD, SKIP), "1 test(s) skipped"),
        (xml(GOOD, FAIL), "1 test(s) failed"),
        (xml(), "no test ran"),
        (xml(GOOD)[:-5], "not a JUnit report"),
        (b"", "not a JUnit report"),
        (None, "pytest left no report"),
    ],
)
def test_a_report_can_spoil_a_pass(report: bytes | None, reason: str) -> None:
    found = suite.judge(PASSED, report).verdict
    assert (found.outcome, found.exit_code) == (verdict.Outcome.FAILED, 1)
    assert reason in found.reason


def test_a_report_cannot_mend_a_failure() -> None:
    lost = verdict.judge(b'{"event": "init"}\n', "", "")
    assert suite.judge(lost, xml(GOOD)).verdict == lost


def test_pass() -> None:
    found = suite.judge(PASSED, xml(GOOD, GOOD))
    assert found.verdict is PASSED
    assert found.report == junit.Report(2, (), ())
